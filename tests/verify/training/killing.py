"""Kill a training at a chosen call, for the tests of resumption."""


class Killed(BaseException):
    """Simulates a kill: code under test must not catch it."""


def killing(monkeypatch, owner, name, at):
    """Make call number `at` of a function raise :class:`Killed`; returns the list of calls."""
    real, calls = getattr(owner, name), []

    def counted(*arguments, **options):
        calls.append(name)
        if len(calls) == at:
            raise Killed
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls
