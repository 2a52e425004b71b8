import { bytes, controls, element, Look } from "/viewer.js";
import { get, pixels, post, upload } from "/server.js";
import { ask } from "/ask.js";
import { layers } from "/layers.js";
import { study } from "/study.js";
import { test } from "/test.js";

const $ = (id) => document.getElementById(id);
const TABS = ["ask", "test", "layers"], TOOLS = { study: ["move", "window"], ask: ["move", "window"], test: ["brush", "hot", "move", "window"], layers: ["move", "window"] };

// What all tabs share: the model, the picture, its classes, how maps are drawn.
const app = { info: null, tables: {}, look: new Look(), pictures: [], picture: null, pixels: null, classes: [], layers: [], tab: "ask", wanted: {}, turn: 0 };
app.say = (text) => { $("status").textContent = text; };
app.fail = (error) => { $("problem").hidden = !error; $("problem").textContent = error ? error.message : ""; if (error) app.say(""); };
app.model = () => $("model").value;
app.body = (more = {}) => ({ model: app.model(), picture: app.picture.id, ...more });
app.label = (index) => app.labels()[index] ?? app.classes.find((one) => one.index === index)?.label ?? `class ${index}`;
app.labels = () => app.info.models.find((one) => one.name === app.model()).labels;
app.method = () => app.info.models.find((one) => one.name === app.model()).method;

// Run a question: say that it runs, and show its error. Answers that are no longer wanted are dropped.
app.run = async (text, work) => {
  app.fail(null);
  app.say(text);
  try { await work(); app.say(""); } catch (error) { app.fail(error); }
};

app.remember = (changes) => {
  Object.assign(app.wanted, changes);
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries({ tab: app.tab, model: app.model(), picture: app.picture?.id, name: app.picture?.name, ...app.wanted })) if (value !== undefined && value !== null && value !== "") query.set(key, value);
  history.replaceState(null, "", `#${query}`);
};

const parts = {};

function choose(tab) {
  app.tab = tab;
  for (const name of TABS) {
    const selected = name === tab;
    $(`tab-${name}`).setAttribute("aria-selected", String(selected));
    $(`tab-${name}`).tabIndex = selected ? 0 : -1;
    $(`panel-${name}`).hidden = !selected;
  }
  controls($("controls"), app.look, app.info.colours.names, { tools: TOOLS[tab], picture: () => app.pixels });
  app.look.set({ tool: TOOLS[tab][0] });
  app.remember({});
  document.querySelector(".pick").hidden = tab === "study";
  if (tab === "study" || app.picture) parts[tab].show();
}

function listPictures() {
  $("pictures").replaceChildren(...app.pictures.map((one) => element("li", {}, element("button", { type: "button", text: one.name, "aria-pressed": String(one.id === app.picture?.id), onclick: () => open(one) }))));
}

async function open(facts) {
  const turn = ++app.turn;
  if (!app.pictures.some((one) => one.id === facts.id)) app.pictures.push(facts);
  await app.run("Reading the picture …", async () => {
    const shown = await pixels(facts);
    if (turn !== app.turn) return;
    Object.assign(app, { picture: facts, pixels: shown });
    app.look.set({ zoom: 1, x: 0.5, y: 0.5, low: 0, high: 1 });
    listPictures();
    await question();
  });
}

// Ask the model about the picture, and tell all tabs.
async function question() {
  const turn = ++app.turn, body = app.body();
  app.say("Asking the model …");
  const [answer, stages] = await Promise.all([post("/api/predict", { ...body, count: app.labels().length ? 5 : 1000 }), post("/api/layer-names", body).catch(() => ({ layers: [] }))]);
  if (turn !== app.turn) return;
  Object.assign(app, { classes: answer.classes, outcome: answer.outcome, layers: stages.layers, notes: answer.notes });
  document.querySelectorAll(".empty").forEach((one) => { one.hidden = true; });
  document.querySelectorAll(".work").forEach((one) => { one.hidden = false; });
  $("controls").hidden = false;
  for (const part of Object.values(parts)) part.reset();
  await parts[app.tab].show();
  app.remember({});
}

app.open = open;
app.choose = choose;

async function take(files) {
  for (const file of files) {
    let facts = null;
    await app.run(`Uploading ${file.name} …`, async () => {
      const most = app.info.limits.upload_bytes;
      if (file.size > most) throw new Error(`${file.name} has more than ${Math.floor(most / 2 ** 20)} MB; reduce it first.`);
      facts = await upload(file);
    });
    if (facts) await open(facts);
  }
}

function listen() {
  $("file").addEventListener("change", (event) => { take([...event.target.files]); event.target.value = ""; });
  for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.toggle("over", name === "dragover"); });
  document.addEventListener("drop", (event) => take([...event.dataTransfer.files]));
  $("model").addEventListener("change", () => { app.wanted = {}; if (app.picture) app.run("Asking the model …", question); else app.remember({}); });
  let next = 0;
  $("example").addEventListener("click", () => app.run("Drawing an example …", async () => open(await post(`/api/examples/${next++ % app.info.examples}`))));
  document.querySelector(".tabs").addEventListener("click", (event) => event.target.id && choose(event.target.id.slice(4)));
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    choose(TABS[(TABS.indexOf(app.tab) + by + TABS.length) % TABS.length]);
    $(`tab-${app.tab}`).focus();
  });
  $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
}

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
}

async function start() {
  theme(window.matchMedia("(prefers-color-scheme: dark)").matches);
  app.info = await get("/api/info");
  app.tables = Object.fromEntries(Object.entries(app.info.colours.tables).map(([name, table]) => [name, bytes(table)]));
  $("model").replaceChildren(...app.info.models.map((one) => element("option", { value: one.name, text: one.title })));
  $("examples").hidden = !app.info.examples;
  $("about").hidden = !app.info.examples;
  $("about").textContent = "No model was given, so these are the five small models of camscope demo. They know nothing but computer-generated chest radiographs: take an example. Two of the five were taught a shortcut, the letters AP. Which?";
  Object.assign(parts, { ask: ask(app), test: test(app), layers: layers(app) });
  if (app.info.study) {
    TABS.push("study");
    parts.study = study(app);
    $("tab-study").hidden = false;
  }
  listen();
  const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (app.info.models.some((one) => one.name === wanted.model)) $("model").value = wanted.model;
  const { tab, model, picture, name, ...others } = wanted;
  app.wanted = others;
  choose(TABS.includes(tab) ? tab : app.info.study ? "study" : "ask");
  if (/^[0-9a-f]{24}$/.test(picture || "")) {
    try { await open(await get(`/api/pictures/${picture}`)); } catch { app.fail(new Error(`This link shows ${name || "a picture"} that the app no longer has. Open its file again.`)); }
  }
}

start().catch(app.fail);
