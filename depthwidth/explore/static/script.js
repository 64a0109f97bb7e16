"use strict";
// Sends the settings whenever one changes and puts the answers in their places. One request is under way at a time; after it the
// latest settings are sent, so that a slider that moves quickly never queues.
(() => {
  const form = document.getElementById("settings");
  const place = (name) => document.getElementById(name);
  document.documentElement.classList.add("script");

  function query() { // an empty field says nothing, except that of the budget, which has a default of its own
    const given = [...new FormData(form)].map(([name, value]) => [name, value.trim()]);
    return new URLSearchParams(given.filter(([name, value]) => value || name === "budget")).toString();
  }

  let changed = false, busy = false, waiting = null, instead = {};

  async function refresh() {
    changed = true;
    state("computing");
    if (waiting) waiting.abort(); // the stability of settings that are left already
    if (busy) return;
    busy = true;
    try {
      while (changed) {
        changed = false;
        const start = performance.now(), asked = query(), leaving = waiting = new AbortController();
        const plan = answer(`/plan?${asked}`); // the server computes the stability while this page shows the plan
        const depth = answer(`/depth?${asked}`, { signal: leaving.signal }).then((steady) => ({ steady }), (error) => ({ error }));
        history.replaceState(null, "", `/?${asked}`);
        const found = await plan;
        showPlan(found);
        const first = performance.now() - start;
        if (found.refused) leaving.abort();
        if (found.refused && !changed) state("refused");
        if (changed || found.refused) continue;
        const { steady, error } = await depth;
        if (changed) continue;
        if (error) throw error;
        showDepth(steady);
        state("ready");
        place("time").textContent = `Shape in ${Math.round(first)} ms, stability in ${Math.round(performance.now() - start)} ms.`;
      }
    } catch (error) {
      stale(true);
      state("unanswered");
      place("time").textContent = "The server does not answer; start depthwidth explore again.";
    } finally {
      busy = false;
      waiting = null;
    }
  }

  const answer = async (address, options) => (await fetch(address, options)).json();

  const state = (word) => { document.body.dataset.state = word; };

  function showPlan(found) {
    for (const field of form.querySelectorAll("[name]")) {
      const sentence = found.errors[field.name] || "";
      const line = place(`error-${field.name}`);
      if (!line) continue;
      if (line.textContent !== sentence) line.textContent = sentence;
      if (sentence) field.setAttribute("aria-invalid", "true"); else field.removeAttribute("aria-invalid");
      if (field.dataset.hint !== undefined && !found.refused) field.placeholder = found.hints[field.name] || field.dataset.hint;
    }
    place("headline").innerHTML = found.headline;
    stale(found.refused);
    if (found.refused) return;
    instead = found.values;
    form.querySelectorAll("input[name]").forEach((field) => { if (!field.value.trim()) follow(field); });
    place("results").innerHTML = found.results;
    place("evidence").innerHTML = found.evidence;
    place("depth").classList.add("stale"); // until its own answer arrives
  }

  function showDepth(steady) {
    const depth = place("depth");
    depth.innerHTML = steady.depth;
    depth.classList.remove("stale");
    if (steady.refused) {
      place("error-scheme").textContent = steady.refused;
      place("scheme").setAttribute("aria-invalid", "true");
    }
  }

  function stale(yes) {
    for (const name of ["results", "depth", "evidence"]) place(name).classList.toggle("stale", yes);
  }

  const steps = (slider) => slider.dataset.steps.split(",");

  const units = { "": 1, K: 1e3, M: 1e6, B: 1e9, T: 1e12 };

  function number(text) {
    const found = /^([0-9.]+(?:e[0-9]+)?)([KMBT]?)$/i.exec(text.replaceAll(",", ""));
    return found ? Number(found[1]) * units[found[2].toUpperCase()] : NaN;
  }

  function follow(field) { // the slider of a field goes to the step nearest to the field's number, or to the number that counts instead
    const slider = form.querySelector(`[data-for="${field.name}"]`);
    if (!slider) return;
    const text = field.value.trim() || String(instead[field.name] ?? ""), all = steps(slider);
    const apart = all.map((step) => step === text ? -1 : Math.abs(Math.log(number(step) / number(text)))).map((d) => d >= -1 ? d : Infinity);
    slider.value = Math.min(...apart) < Infinity ? apart.indexOf(Math.min(...apart)) : 0;
    slider.setAttribute("aria-valuetext", text || "default");
  }

  form.addEventListener("input", (event) => {
    const moved = event.target;
    if (moved.dataset.for) {
      const field = place(moved.dataset.for);
      field.value = steps(moved)[moved.value];
      moved.setAttribute("aria-valuetext", field.value || "default");
    } else {
      follow(moved);
    }
    refresh();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
  });
  form.querySelectorAll("[name]").forEach(follow);
  if (matchMedia("(max-width: 760px)").matches) { // on a phone the results are near: only the first group is open
    form.querySelectorAll("details").forEach((group, number) => { group.open = number === 0; });
  }
  refresh();
})();
