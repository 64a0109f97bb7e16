"""From a budget to a shape: rules, templates, search, plans, head allocation."""
