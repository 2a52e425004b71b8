import { spread } from "./picture.js";
import { element, MODES } from "./viewer.js";

const TOOLS = { move: "Move", window: "Window / level", brush: "Brush", hot: "Take hot area" };
const TONES = { full: "all tones", usual: "without extremes", dark: "dark parts", bright: "bright parts", inverted: "inverted" };

function tones(name, look, picture) {
  if (name === "usual" && picture) return spread(picture, 0.98);
  return { full: [0, 1], dark: [0, 0.5], bright: [0.5, 1], inverted: [1, 0] }[name] || [look.low, look.high];
}

// Controls of a Look. names: {colour map: what it is called}; tools: which; picture: function that returns the picture.
export function controls(host, look, names, { tools = ["move", "window"], picture = () => null } = {}) {
  const slider = (name, text) => element("label", { text }, element("input", { type: "range", min: 0, max: 1, step: 0.01, data: { name }, oninput: (event) => look.set({ [name]: Number(event.target.value) }) }));
  const list = (name, text, options, onchange) => element("label", { text }, element("select", { data: { name }, onchange }, ...Object.entries(options).map(([value, shown]) => element("option", { value, text: shown }))));
  const tick = (name, text) => element("label", { class: "tick" }, element("input", { type: "checkbox", data: { name }, onchange: (event) => look.set({ [name]: event.target.checked }) }), text);
  const tool = (name) => element("button", { type: "button", text: TOOLS[name], data: { tool: name }, onclick: () => look.set({ tool: name }) });
  host.classList.add("viewer-controls");
  host.replaceChildren(
    element("div", { class: "viewer-tools", role: "group", "aria-label": "Tool of the pointer" }, ...tools.map(tool), element("button", { type: "button", text: "Show all", onclick: () => look.set({ zoom: 1, x: 0.5, y: 0.5 }) })),
    list("mode", "View", MODES, (event) => look.set({ mode: event.target.value })),
    list("colours", "Colours", names, (event) => look.set({ colours: event.target.value })),
    slider("opacity", "Opacity"),
    slider("threshold", "Hide below"),
    list("tones", "Window", TONES, (event) => { const [low, high] = tones(event.target.value, look, picture()); look.set({ low, high }); }),
    tick("fade", "fade where the map is low"),
    tick("outlines", "outlines"),
  );
  const show = () => {
    host.querySelectorAll("[data-name]").forEach((one) => {
      if (one.type === "checkbox") one.checked = look[one.dataset.name];
      else if (one.dataset.name !== "tones") one.value = look[one.dataset.name];
    });
    host.querySelectorAll("[data-tool]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.tool === look.tool)));
  };
  look.addEventListener("change", show);
  show();
}
