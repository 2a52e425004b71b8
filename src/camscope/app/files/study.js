import { element, number, Viewer } from "/viewer.js";
import { get, pixels, post } from "/server.js";
import { forViewer } from "/ask.js";

const $ = (id) => document.getElementById(id);
const TRUTH = new Map([[true, "present"], [false, "absent"], [null, "unknown"], [undefined, "hidden"]]);

export function study(app) {
  const filters = $("study-filters"), review = $("review");
  let facts = null, rows = [], total = 0, page = 0, size = 1, open = -1, viewer = null, reviews = [], turn = 0, opened = null;

  const query = () => {
    const chosen = new URLSearchParams();
    for (const [name, value] of new FormData(filters)) if (value !== "") chosen.set(name, value);
    return chosen;
  };
  const reader = () => review.elements.reader.value.trim();
  const mine = (row) => reviews.find((one) => one.image === row.image && one.label === row.label);
  const percent = (value) => (value === undefined ? "hidden" : value === null ? "unknown" : `${(100 * value).toFixed(1)} %`);

  async function start() {
    facts = await get("/api/study");
    $("study-name").textContent = `Study ${facts.name}: ${facts.cases} cases`;
    $("study-warnings").textContent = facts.warnings.join(" ");
    const fill = (select, values) => select.append(...values.map(([value, text]) => element("option", { value, text })));
    const labels = Object.keys(facts.labels).map((name) => [name, name]);
    fill(filters.elements.label, labels);
    fill(filters.elements.group, facts.groups.map((name) => [name, name]));
    filters.elements.group.closest("label").hidden = !facts.groups.length;
    fill(filters.elements.sort, facts.regions.map((one) => [`mass:${one.name}`, `heat in ${one.words}`]));
    fill($("study-class"), labels);
    fill($("study-method"), app.info.methods.map((one) => [one.name, one.name]));
    $("ratings").replaceChildren(...Object.entries(facts.ratings).map(([value, text]) => element("label", { class: "tick" }, element("input", { type: "radio", name: "rating", value }), text)));
    if (!filters.elements.label.value && labels.length) filters.elements.label.value = labels[0][0];
  }

  async function list(to = 0) {
    await app.run("Reading the cases …", async () => {
      const blind = filters.elements.blinded.checked;
      for (const name of ["outcome", "low", "high"]) { filters.elements[name].disabled = blind; }
      if (blind && ["surprise", "probability"].includes(filters.elements.sort.value)) filters.elements.sort.value = "case";
      const chosen = query();
      $("study-csv").href = `/api/study/selection.csv?${chosen}`;
      chosen.set("page", to);
      const found = await get(`/api/study/cases?${chosen}`);
      [rows, total, size, page] = [found.rows, found.total, found.page, to];
      if (reader()) reviews = await get(`/api/study/reviews?reader=${encodeURIComponent(reader())}`);
      show();
    });
  }

  function show() {
    $("study-count").textContent = total ? `${page * size + 1} to ${page * size + rows.length} of ${total} rows` : "no row fits";
    $("study-back").disabled = page === 0;
    $("study-on").disabled = (page + 1) * size >= total;
    $("study-rows").replaceChildren(...rows.map((row, n) => {
      const done = mine(row), name = row.image.split(/[/\\]/).pop();
      return element("tr", { class: n === open ? "current" : null }, element("th", { scope: "row" }, element("button", { type: "button", text: row.case, "aria-label": `Open case ${row.case}, ${row.label}`, onclick: () => choose(n) }), done ? element("span", { class: "done", text: done.flag ? " flagged" : " reviewed" }) : null),
        element("td", { text: row.label }), element("td", { text: TRUTH.get(row.truth) }), element("td", { class: "numeric", text: row.status === "failed" ? `failed: ${row.message}` : percent(row.probability) }), element("td", { text: row.patient }), element("td", { text: name }));
    }));
  }

  async function choose(n) {
    const row = rows[n], mark = ++turn;
    open = n;
    show();
    await app.run("Reading the picture …", async () => {
      const picture = await post("/api/study/open", { case: row.case }), shown = await pixels(picture);
      if (mark !== turn) return;
      $("study-case").hidden = false;
      $("study-title").textContent = `Case ${row.case}: ${row.label}`;
      const outcome = row.outcome === undefined ? "" : ` \u00b7 ${row.outcome || "truth unknown"}`;
      $("study-facts").textContent = `${row.image} \u00b7 truth ${TRUTH.get(row.truth)} \u00b7 probability ${percent(row.probability)}${outcome}`;
      $("study-class").value = row.label;
      viewer?.close();
      viewer = new Viewer($("study-view"), app.look, app.tables, { label: picture.name });
      viewer.setPicture(shown);
      viewer.key_ = picture.id;
      opened = picture;
      app.pixels = shown;
      $("controls").hidden = false;
      $("study-title").scrollIntoView({ block: "nearest" });
      fillReview(row);
      if (!$("study-method").value) $("study-method").selectedIndex = 0;
      await map();
      await agreement();
    });
  }

  async function map() {
    const answer = facts.labels[$("study-class").value], one = viewer;
    const { maps: [found] } = await post("/api/explain", { model: answer.model, picture: one.key_, targets: [answer.class], methods: [$("study-method").value] });
    if (one === viewer) viewer.setMap(forViewer(found));
  }

  function fillReview(row) {
    const done = mine(row);
    for (const input of review.querySelectorAll("[name=rating]")) input.checked = input.value === done?.rating;
    review.elements.flag.checked = Boolean(done?.flag);
    review.elements.comment.value = done?.comment || "";
  }

  async function agreement() {
    const { pairs, all } = await get("/api/study/agreement"), kappa = (value) => (value === null ? "not defined" : number(value));
    const said = pairs.map((one) => element("p", { class: "caption", text: `${one.readers.join(" and ")}: ${one.images} rated by both${one.images ? `, ${percent(one.equal)} equal, Cohen's kappa ${kappa(one.kappa)}` : ""}` }));
    if (all) said.push(element("p", { class: "caption", text: `All ${all.readers.length} readers: ${all.images} rated by all, Fleiss' kappa ${kappa(all.kappa)}` }));
    $("agreement").replaceChildren(...(said.length ? said : [element("p", { class: "caption", text: "There are not yet two readers." })]));
  }

  async function next() {
    if (open + 1 < rows.length) await choose(open + 1);
    else if ((page + 1) * size < total) { await list(page + 1); await choose(0); }
    else app.say("This is the last case of the selection.");
  }

  filters.addEventListener("change", () => { open = -1; list(); });
  filters.addEventListener("submit", (event) => event.preventDefault());
  $("study-back").addEventListener("click", () => { open = -1; list(page - 1); });
  $("study-on").addEventListener("click", () => { open = -1; list(page + 1); });
  $("study-next").addEventListener("click", next);
  $("study-ask").addEventListener("click", async () => {
    const answer = facts.labels[$("study-class").value];
    $("model").value = answer.model;
    app.wanted = { class: answer.class };
    await app.open(opened);
    app.choose("ask");
  });
  for (const id of ["study-class", "study-method"]) $(id).addEventListener("change", () => app.run("Computing the map …", map));
  review.elements.reader.addEventListener("change", () => app.run("Reading your reviews …", async () => {
    reviews = reader() ? await get(`/api/study/reviews?reader=${encodeURIComponent(reader())}`) : [];
    show();
    if (open >= 0) fillReview(rows[open]);
  }));
  review.addEventListener("submit", (event) => {
    event.preventDefault();
    app.run("Saving the review …", async () => {
      const row = rows[open], { flag, comment } = review.elements, rating = review.querySelector("[name=rating]:checked")?.value || "";
      await post("/api/study/review", { case: row.case, label: row.label, reader: reader(), rating, flag: flag.checked, comment: comment.value, blinded: filters.elements.blinded.checked });
      reviews = await get(`/api/study/reviews?reader=${encodeURIComponent(reader())}`);
      show();
      await agreement();
    });
  });
  return { reset: () => {}, show: async () => { if (!facts) { await start(); $("study-method").value = facts.methods[0]; await list(); } } };
}
