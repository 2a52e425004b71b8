import { bytes, floats } from "./heat.js";
import { element, Look, Viewer } from "./viewer.js";
import { controls } from "./controls.js";

// Show the maps of a notebook's widget side by side, with one set of controls.
function render({ model, el }) {
  const { tables: coded, names, pictures: stored, maps } = model.get("data"), look = new Look();
  const tables = Object.fromEntries(Object.entries(coded).map(([name, table]) => [name, bytes(table)]));
  const pictures = stored.map((one) => ({ ...one, pixels: one.bits === 16 ? new Uint16Array(bytes(one.pixels).buffer) : bytes(one.pixels) }));
  const bar = element("div"), grid = element("div", { class: "viewer-grid" });
  el.replaceChildren(bar, grid);
  controls(bar, look, names, { picture: () => pictures[0] });
  const viewers = maps.map((map) => {
    const host = element("div"), notes = map.notes.map((text) => element("p", { class: "viewer-note", text }));
    grid.append(element("div", {}, element("p", { class: "viewer-title", text: map.title }), host, ...notes));
    const viewer = new Viewer(host, look, tables, { label: map.title });
    viewer.setPicture({ ...pictures[map.picture], full: map.full });
    viewer.setMap({ values: floats(map.grid.values), height: map.grid.height, width: map.grid.width, window: map.window, unit: map.unit });
    return viewer;
  });
  return () => viewers.forEach((viewer) => viewer.close());
}

export default { render };
