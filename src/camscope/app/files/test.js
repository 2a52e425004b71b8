import { bytes, element, number, Viewer } from "/viewer.js";
import { post } from "/server.js";
import { fillClasses, forViewer } from "/ask.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// One line per fill-in: a dot for the region, circles for the patches elsewhere, on one axis.
function plot(answer) {
  const all = answer.fill_ins.flatMap((one) => [one.change, ...one.elsewhere, 0]), low = Math.min(...all), high = Math.max(...all), span = high - low || 1;
  const wide = 320, tall = 40 * answer.fill_ins.length + 46, at = (value) => 14 + ((value - low) / span) * (wide - 28);
  const words = answer.fill_ins.map((one) => `${one.words}: region ${number(one.change)}, elsewhere ${one.elsewhere.map(number).join(", ") || "none"}`).join("; ");
  const svg = drawn("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": `Change of the log-odds of ${answer.label}. ${words}` });
  svg.append(drawn("line", { class: "axis", x1: at(0), x2: at(0), y1: 4, y2: tall - 40 }));
  answer.fill_ins.forEach((one, n) => {
    const y = 30 + 40 * n;
    svg.append(drawn("text", { x: 2, y: y - 14 }, one.words));
    one.elsewhere.forEach((value) => svg.append(drawn("circle", { class: "sham", cx: at(value), cy: y, r: 4 })));
    svg.append(drawn("circle", { class: "own", cx: at(one.change), cy: y, r: 6 }));
  });
  for (const [value, anchor] of [[low, "start"], [high, "end"]]) svg.append(drawn("text", { x: at(value), y: tall - 24, "text-anchor": anchor }, number(value)));
  svg.append(drawn("text", { x: wide / 2, y: tall - 4, "text-anchor": "middle" }, "change of the log-odds: dot = region, circles = elsewhere"));
  return svg;
}

function table(answer) {
  const row = (cells, tag = "td") => element("tr", {}, ...cells.map((text, n) => element(n ? tag : "th", { text, scope: n ? (tag === "th" ? "col" : null) : tag === "th" ? "col" : "row" })));
  const range = (values) => (values.length ? `${number(Math.min(...values))} to ${number(Math.max(...values))}` : "none");
  return element("table", {}, element("thead", {}, row(["filled in with", "before", "after", "elsewhere, change"], "th")), element("tbody", {}, ...answer.fill_ins.map((one) => row([one.words, number(answer.before), number(one.after), range(one.elsewhere)]))));
}

export function test(app) {
  let viewer = null, filled = null;

  function reset() {
    fillClasses($("test-class"), app, app.wanted.class);
    $("effect").replaceChildren();
    viewer?.close();
    filled?.close();
    viewer = filled = null;
    $("brushed").replaceChildren();
  }

  async function map() {
    const target = Number($("test-class").value), { maps: [found] } = await post("/api/explain", app.body({ targets: [target], methods: [app.method()] }));
    viewer?.setMap(forViewer(found));
  }

  async function show() {
    if (viewer) return;
    const host = element("div");
    $("brushed").replaceChildren(host);
    viewer = new Viewer(host, app.look, app.tables, { label: `${app.picture.name}, paint a region` });
    viewer.setPicture(app.pixels);
    $("run").disabled = true;
    viewer.addEventListener("mask", () => { $("run").disabled = !viewer.mask.some(Boolean); });
    fillClasses($("test-class"), app, app.wanted.class);
    await app.run("Computing the map …", map);
  }

  function answered(answer) {
    const host = element("div");
    $("effect").replaceChildren(element("p", { class: "said", text: answer.sentence }), plot(answer), table(answer),
      element("p", { class: "caption", text: `The region is ${(100 * answer.share).toFixed(1)} % of what the network saw. Log-odds: 0 is a probability of 50 %, 1 of 73 %, 2 of 88 %. One picture shows one case; camscope audit tests a cohort.` }),
      element("h3", { text: "What the network was shown" }), host);
    filled?.close();
    filled = new Viewer(host, app.look, app.tables, { label: "The picture with the region filled in" });
    filled.setPicture({ ...answer.filled, pixels: bytes(answer.filled.pixels) });
  }

  $("run").addEventListener("click", () => app.run("Filling in the region and 20 patches elsewhere …", async () => {
    answered(await post("/api/region", app.body({ target: Number($("test-class").value), mask: viewer.maskRuns() })));
  }));
  $("clear").addEventListener("click", () => viewer?.clearMask());
  $("brush").addEventListener("input", (event) => app.look.set({ radius: Number(event.target.value) }));
  $("erase").addEventListener("change", (event) => app.look.set({ erase: event.target.checked }));
  $("test-class").addEventListener("change", () => { app.wanted.class = $("test-class").value; $("effect").replaceChildren(); app.remember({}); app.run("Computing the map …", map); });
  return { reset, show };
}
