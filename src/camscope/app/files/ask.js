import { element, floats, number, Viewer } from "/viewer.js";
import { post, postForFile } from "/server.js";

const $ = (id) => document.getElementById(id);
const SAVES = { zip: "everything (ZIP)", overlay: "overlay", panel: "panel", svg: "figure (SVG)", pdf: "figure (PDF)", npy: "raw map", json: "record (JSON)" };

const SHOWN = 5;

// A map as the viewer takes it.
export function forViewer(map) {
  return { values: floats(map.grid.values), height: map.grid.height, width: map.grid.width, window: map.window, unit: `${map.method} at ${map.layer}, raw values` };
}

export function fillClasses(select, app, chosen) {
  const labels = app.labels(), few = app.classes.map((one) => one.index).filter((index) => index !== null);
  const others = labels.map((_, i) => i).filter((i) => !few.includes(i));
  select.replaceChildren(...[...few, ...others].map((index) => element("option", { value: index, text: app.label(index) })));
  if (chosen !== undefined && chosen !== null) select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

export function ask(app) {
  const views = [];
  let current = 0;

  const chosen = () => ({ target: $("class").value === "" ? null : Number($("class").value), against: $("against").value, method: $("method").value, layer: $("layer").value || null });
  const wants = ({ target, against }) => (against === "" || against === undefined ? target : { of: target, against: Number(against) });

  function reset() {
    const { wanted } = app;
    views.splice(0).forEach((view) => view.viewer.close());
    current = 0;
    $("views").replaceChildren();
    const shown = app.classes.slice(0, SHOWN).map((one) => element("li", {}, element("button", { type: "button", data: { index: one.index }, onclick: () => { $("class").value = one.index; changed(); } },
      element("span", { text: one.label }), element("span", { text: one.probability === null ? (one.score === null ? "" : number(one.score)) : `${(100 * one.probability).toFixed(1)} %` }),
      one.probability === null ? null : element("meter", { min: 0, max: 1, value: one.probability, "aria-label": `Probability of ${one.label}` }))));
    $("classes").replaceChildren(...shown);
    $("chance").textContent = { one: "Probabilities of all classes add up to 100 %.", any: "Each probability stands for itself: several findings, or none, can be present.", value: "The model returns a value, no probability.", boxes: "The model returns boxes." }[app.outcome] || "";
    fillClasses($("class"), app, wanted.class);
    fillClasses($("against"), app);
    $("against").prepend(element("option", { value: "", text: "(no other class)" }));
    $("against").value = wanted.against || "";
    if ($("against").selectedIndex < 0) $("against").value = "";
    $("against").closest("label").hidden = $("class").options.length < 2;
    $("method").replaceChildren(...app.info.methods.map((one) => element("option", { value: one.name, text: one.name })));
    $("method").value = wanted.method || app.method();
    if ($("method").selectedIndex < 0) $("method").value = app.method();
    $("layer").replaceChildren(element("option", { value: "", text: "the usual one" }), ...app.layers.map((name) => element("option", { value: name, text: name })));
    $("layer").value = wanted.layer || "";
    if ($("layer").selectedIndex < 0) $("layer").value = "";
  }

  function place() {
    const host = element("div"), title = element("span"), close = element("button", { type: "button", text: "Close", "aria-label": "Close this map", onclick: () => remove(view) });
    const choose = element("button", { type: "button", text: "Change", "aria-label": "Change this map", onclick: () => select(views.indexOf(view)) });
    const view = { box: element("div", { class: "view" }, element("h2", {}, title, element("span", {}, choose, " ", close)), host), title, close, choose, viewer: new Viewer(host, app.look, app.tables, { label: app.picture.name }) };
    view.viewer.setPicture(app.pixels);
    views.push(view);
    $("views").append(view.box);
    current = views.length - 1;
    mark();
    return view;
  }

  function mark() {
    $("views").classList.toggle("several", views.length > 1);
    views.forEach((view, n) => { view.box.classList.toggle("current", n === current); view.close.hidden = views.length < 2; view.choose.hidden = views.length < 2; });
  }

  function remove(view) {
    view.viewer.close();
    view.box.remove();
    views.splice(views.indexOf(view), 1);
    select(Math.min(current, views.length - 1));
  }

  function select(n) {
    current = n;
    const { choice } = views[n];
    [$("class").value, $("against").value, $("method").value, $("layer").value] = [choice.target, choice.against, choice.method, choice.layer || ""];
    mark();
    facts(views[n]);
  }

  function facts(view) {
    const { map } = view;
    document.querySelectorAll("#classes button").forEach((one) => one.setAttribute("aria-pressed", String(Number(one.dataset.index) === map.index)));
    $("method-about").textContent = app.info.methods.find((one) => one.name === map.method)?.about || "";
    $("notes").replaceChildren(...[...new Set(map.notes)].map((text) => element("li", { text })));
    $("saves").replaceChildren(...Object.entries(SAVES).map(([kind, text]) => element("button", { type: "button", text, data: { kind }, onclick: () => save(kind, view.choice) })));
  }

  async function draw(view) {
    const choice = chosen();
    view.choice = choice;
    await app.run("Computing the map …", async () => {
      const { maps: [map] } = await post("/api/explain", app.body({ targets: [wants(choice)], methods: [choice.method], layer: choice.layer }));
      if (view.choice !== choice) return;
      view.map = map;
      const sure = map.probability === null ? `score ${number(map.score)}` : `${(100 * map.probability).toFixed(1)} %`;
      view.title.textContent = `${map.label}, ${sure} \u00b7 ${map.method}`;
      view.viewer.canvas.setAttribute("aria-label", `${app.picture.name} with the map of ${map.label} by ${map.method}. ${view.viewer.canvas.getAttribute("aria-label").split(". ").slice(1).join(". ")}`);
      view.viewer.setMap(forViewer(map));
      facts(view);
      app.map = map;
      app.remember({ class: choice.target, against: choice.against, method: choice.method, layer: choice.layer });
    });
  }

  const changed = () => app.picture && draw(views[current] || place());

  async function save(kind, choice) {
    await app.run("Writing the file …", async () => {
      const body = app.body({ kind, target: wants(choice), method: choice.method, layer: choice.layer, cmap: app.look.colours, opacity: app.look.opacity });
      const file = await postForFile("/api/files", body), link = element("a", { href: URL.createObjectURL(file), download: `${app.picture.name.replace(/\.[^.]*$/, "")}_${choice.method}.${{ overlay: "jpg", panel: "png" }[kind] || kind}` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }

  for (const id of ["class", "against", "method", "layer"]) $(id).addEventListener("change", changed);
  $("add").addEventListener("click", () => { place(); changed(); });
  $("link").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(location.href); app.say("The link is copied. It works while the app runs."); } catch { app.say("Copy the address of this page. It works while the app runs."); }
  });
  return { reset, show: async () => { if (!views.length) await draw(place()); } };
}
