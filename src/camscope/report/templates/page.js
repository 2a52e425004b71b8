(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { rows, cases, regions, labels, methods } = data;
  const PAGE = 24;
  const $ = (id) => document.getElementById(id);
  const colours = Object.fromEntries(Object.entries(data.colours).map(([name, text]) => [name, bytes(text)]));
  const state = { order: [], page: 0, open: -1 };

  // The raw map of a row, placed on its picture as the overlays are.
  function placed(row, width, height) {
    const raw = bytes(rows.grid[row]), view = new DataView(raw.buffer), values = new Float32Array(raw.length / 2);
    for (let i = 0; i < values.length; i++) values[i] = view.getInt16(2 * i, true) * rows.step[row];
    const [top, left, tall, wide] = rows.windows[rows.window[row]], c = rows.case[row];
    const window = { picture: [cases.height[c] || tall, cases.width[c] || wide], start: [top, left], extent: [tall, wide] };
    return place({ values, height: rows.height[row], width: rows.width[row], window }, width, height);
  }

  const common = new Map();
  for (let row = 0; row < rows.case.length; row++) {
    if (rows.top[row] === null) continue;
    const key = `${rows.label[row]} ${rows.method[row]}`;
    common.set(key, Math.max(common.get(key) || 0, rows.top[row]));
  }

  function draw(canvas) {
    const row = Number(canvas.dataset.row), map = placed(row, canvas.width, canvas.height);
    const alike = $("d-scale").value === "common";
    const [low, high] = alike ? [0, common.get(`${rows.label[row]} ${rows.method[row]}`) || 0] : limits(map);
    const options = { table: colours[$("d-colours").value], low, high, threshold: Number($("d-threshold").value) };
    canvas.getContext("2d").putImageData(paint(map, options), 0, 0);
    canvas.style.opacity = $("d-opacity").value;
  }

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined && text !== null) element.textContent = text;
    return element;
  }

  const decimal = (value, digits = 3) => (value === null ? "unknown" : value.toFixed(digits).replace("-", "\u2212"));
  const TRUTH = new Map([[true, "present"], [false, "absent"], [null, "unknown"]]);
  const address = (row) => `#case-${cases.number[rows.case[row]]}/${encodeURIComponent(labels[rows.label[row]])}/${encodeURIComponent(methods[rows.method[row]])}`;

  function picture(row, longest, overlaid) {
    const c = rows.case[row], stack = make("span", "stack");
    const tall = cases.height[c] || 1, wide = cases.width[c] || 1, factor = Math.min(1, longest / Math.max(tall, wide));
    if (cases.height[c]) stack.style.aspectRatio = `${wide} / ${tall}`;
    if (cases.thumbnail[c]) {
      const image = make("img");
      image.src = cases.thumbnail[c];
      image.alt = overlaid ? "" : `Original of ${cases.image[c]}`;
      stack.append(image);
    } else if (!overlaid) stack.append(make("span", "none alone", cases.missing[c]));
    if (overlaid && rows.grid[row] !== null) {
      const canvas = make("canvas");
      canvas.width = Math.max(1, Math.round(wide * factor));
      canvas.height = Math.max(1, Math.round(tall * factor));
      canvas.dataset.row = row;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Map of ${labels[rows.label[row]]} over ${cases.image[c]}`);
      stack.append(canvas);
      draw(canvas);
      if (!(rows.top[row] > 0)) stack.append(make("span", "none", "no positive evidence"));
    } else if (overlaid) stack.append(make("span", "none", rows.status[row] === "failed" ? "failed" : `no map: ${rows.message[row] || rows.status[row]}`));
    return stack;
  }

  function pair(row, longest) {
    const both = make("span", "pair");
    both.append(picture(row, longest, false), picture(row, longest, true));
    return both;
  }

  function line(left, right, name) {
    const box = make("span", "line");
    box.append(make("span", name, left), right);
    return box;
  }

  function card(row, n) {
    const c = rows.case[row], button = make("button", "card");
    button.type = "button";
    button.dataset.row = row;
    button.append(rows.status[row] === "failed" && !cases.thumbnail[c] ? make("span", "stack none", cases.missing[c]) : pair(row, 256));
    const facts = make("span", "facts");
    facts.style.display = "block";
    const outcome = rows.status[row] === "failed" ? "failed" : rows.outcome[row] || "truth unknown";
    facts.append(line(labels[rows.label[row]], make("span", `tag ${outcome}`, outcome), "name"));
    const whose = [cases.patient[c], cases.group[c]].filter(Boolean).join(" · ");
    facts.append(line(whose || cases.image[c], make("span", "soft", `${measure === "score" ? "score" : "p"} ${decimal(rows[measure][row])}`), "soft"));
    facts.append(line(cases.image[c], make("span", "soft", methods.length > 1 ? methods[rows.method[row]] : ""), "soft"));
    button.append(facts);
    if (rows.status[row] === "failed") button.append(make("span", "reason", rows.message[row] || "no reason given"));
    button.addEventListener("click", () => open(n));
    return button;
  }

  function option(select, value, text) {
    const one = make("option", "", text);
    one.value = value;
    select.append(one);
  }

  function fill() {
    const seen = (values) => [...new Set(values)].filter((v) => v !== null && v !== "").sort();
    const choose = (id, listed) => { option($(id), "", "all"); listed.forEach(([value, text]) => option($(id), value, text)); };
    choose("f-label", labels.map((name, i) => [i, name]));
    choose("f-method", methods.map((name, i) => [i, name]));
    choose("f-group", seen(cases.group).map((name) => [name, name]));
    choose("f-outcome", ["TP", "FP", "FN", "TN"].map((name) => [name, name]));
    choose("f-status", [["ok", "with a map"], ["not asked", "no map asked"], ["failed", "failed"]]);
    choose("f-peak", regions.map((region, i) => [i, region.words]));
    const judged = new Map(data.verdicts.map((one) => [`${one.verdict} ${one.region}`, `${one.verdict}: ${one.words}`]));
    choose("f-verdict", [...judged].sort());
    const by = [["case", "row of the table"], ["score", "logit"], ["probability", "probability"], ["surprise", "surprise |truth − probability|"], ["random", "random"]];
    regions.forEach((region, i) => by.push([`mass ${i}`, `heat in ${region.words}`]));
    by.forEach(([value, text]) => option($("s-by"), value, text));
    Object.keys(colours).forEach((name) => option($("d-colours"), name, name === "byr" ? "blue, yellow, red" : name));
    $("f-measure").textContent = measure === "score" ? "Score from" : "Probability from";
    document.querySelector(".several").hidden = methods.length < 2;
    document.querySelector(".several").style.display = methods.length < 2 ? "none" : "";
  }

  // Models without probabilities are filtered by their scores.
  const measure = rows.probability.some((p) => p !== null) ? "probability" : "score";
  const known = rows[measure].filter((v) => v !== null);
  const bounds = measure === "probability" ? [0, 1] : [known.reduce((a, b) => Math.min(a, b), 0), known.reduce((a, b) => Math.max(a, b), 1)];
  const surprise = (row) => (rows.truth[row] === null || rows.probability[row] === null ? null : Math.abs(Number(rows.truth[row]) - rows.probability[row]));

  function keep() {
    const get = (id) => $(id).value;
    const [label, method, group, outcome, status, peak, verdict] = ["label", "method", "group", "outcome", "status", "peak", "verdict"].map((name) => get(`f-${name}`));
    const text = get("f-text").trim().toLowerCase(), low = get("f-low") === "" ? -Infinity : Number(get("f-low")), high = get("f-high") === "" ? Infinity : Number(get("f-high"));
    const judged = new Set(data.verdicts.filter((one) => `${one.verdict} ${one.region}` === verdict).map((one) => labels.indexOf(one.label)));
    const all = low <= bounds[0] && high >= bounds[1];
    return (row) => {
      const c = rows.case[row], p = rows[measure][row];
      return (label === "" || rows.label[row] === Number(label)) && (method === "" || rows.method[row] === Number(method))
        && (group === "" || cases.group[c] === group) && (outcome === "" || rows.outcome[row] === outcome)
        && (status === "" || rows.status[row] === status) && (peak === "" || rows.peak[Number(peak)][row] === true)
        && (verdict === "" || judged.has(rows.label[row])) && (all || (p !== null && p >= low && p <= high))
        && (text === "" || cases.patient[c].toLowerCase().includes(text) || cases.image[c].toLowerCase().includes(text));
    };
  }

  function ranked(order) {
    const by = $("s-by").value, sign = $("s-order").value === "down" ? -1 : 1;
    $("s-order").disabled = ["case", "random"].includes(by);
    if (by === "random") {
      const mixed = (row) => Math.imul(row + 1, 2654435761) >>> 0;
      return order.sort((a, b) => mixed(a) - mixed(b));
    }
    if (by === "case") return order;
    const values = by.startsWith("mass ") ? rows.mass[Number(by.slice(5))] : rows[by];
    const of = by === "surprise" ? surprise : (row) => values[row];
    return order.sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (x - y) || a - b;
    });
  }

  function update() {
    const wanted = keep(), order = [];
    for (let row = 0; row < rows.case.length; row++) if (wanted(row)) order.push(row);
    state.order = ranked(order);
    state.page = 0;
    show();
  }

  function show() {
    const last = Math.max(0, Math.ceil(state.order.length / PAGE) - 1);
    state.page = Math.min(Math.max(state.page, 0), last);
    const first = state.page * PAGE, shown = state.order.slice(first, first + PAGE);
    $("cards").replaceChildren(...shown.map((row, i) => card(row, first + i)));
    $("count").textContent = `${state.order.length} of ${rows.case.length} rows chosen`;
    $("p-where").textContent = state.order.length ? `${first + 1} to ${first + shown.length}` : "none";
    $("p-back").disabled = state.page === 0;
    $("p-on").disabled = state.page === last;
  }

  function redraw() {
    document.querySelectorAll("canvas[data-row]").forEach(draw);
    document.querySelector("output[for=d-opacity]").textContent = Number($("d-opacity").value).toFixed(2);
    const threshold = Number($("d-threshold").value);
    document.querySelector("output[for=d-threshold]").textContent = threshold.toFixed(2);
    const scale = $("d-bar"), options = { table: colours[$("d-colours").value], threshold };
    scale.getContext("2d").putImageData(bar(scale.width, scale.height, options), 0, 0);
  }

  function facts(row) {
    const c = rows.case[row], listed = [
      ["Label", labels[rows.label[row]]], ["Method", methods[rows.method[row]]], ["Patient", cases.patient[c]], ["Group", cases.group[c]],
      ["Image", cases.image[c]], ["Line of the table", String(cases.line[c])], ["Truth", TRUTH.get(rows.truth[row])],
      ["Logit", decimal(rows.score[row], 4)], ["Probability", decimal(rows.probability[row], 4)], ["Outcome", rows.outcome[row] || "unknown"],
      ["Status", rows.status[row] + (rows.message[row] ? `: ${rows.message[row]}` : "")],
    ];
    Object.entries(cases.facts).forEach(([name, values]) => listed.push([name, values[c]]));
    regions.forEach((region, i) => {
      if (rows.mass[i][row] === null) return;
      const peak = rows.peak[i][row] ? ", highest point inside" : "";
      listed.push([`Heat in ${region.words}`, `${decimal(rows.mass[i][row], 4)}, ${decimal(rows.enrichment[i][row], 2)} times its share of the picture${peak}`]);
    });
    (rows.notes[rows.note[row]] || []).forEach((text) => listed.push(["Note", text]));
    const table = make("table"), body = make("tbody");
    listed.filter(([, text]) => text !== "" && text !== null).forEach(([name, text]) => {
      const line = make("tr"), head = make("th", "", name);
      head.scope = "row";
      line.append(head, make("td", "", text));
      body.append(line);
    });
    table.append(body);
    return table;
  }

  function open(n) {
    const row = state.order[n];
    if (row === undefined) return;
    state.open = n;
    $("one-title").textContent = `${labels[rows.label[row]]}: ${cases.image[rows.case[row]]} (${n + 1} of ${state.order.length})`;
    $("o-link").href = address(row);
    $("o-back").disabled = n === 0;
    $("o-on").disabled = n === state.order.length - 1;
    const body = [pair(row, 512), facts(row)];
    if (rows.file[row]) {
      const link = make("a", "", "Overlay at full size");
      link.href = `./${rows.file[row].split("/").map(encodeURIComponent).join("/")}`;
      const line = make("p");
      line.append(link);
      body.push(line);
    }
    $("one-body").replaceChildren(...body);
    history.replaceState(null, "", address(row));
    if (!$("one").open) $("one").showModal();
  }

  function step(by) {
    const to = state.open + by;
    if (to < 0 || to >= state.order.length) return;
    state.page = Math.floor(to / PAGE);
    show();
    open(to);
  }

  function follow() {
    const [number_, label, method] = location.hash.slice(6).split("/").map((part) => { try { return decodeURIComponent(part); } catch { return ""; } });
    if (!location.hash.startsWith("#case-")) return;
    const wanted = (row) => cases.number[rows.case[row]] === Number(number_) && (!label || labels[rows.label[row]] === label) && (!method || methods[rows.method[row]] === method);
    let at = state.order.findIndex(wanted);
    if (at < 0) { preset("everything"); at = state.order.findIndex(wanted); }
    if (at < 0) return;
    state.page = Math.floor(at / PAGE);
    show();
    open(at);
  }

  function preset(name) {
    document.querySelector(".controls").reset();
    $("d-opacity").value = data.display.opacity;
    $("f-low").value = bounds[0];
    $("f-high").value = bounds[1];
    if (name === "random") $("s-by").value = "random";
    if (["maps", "random"].includes(name)) $("f-status").value = "ok";
    if (name === "failed") $("f-status").value = "failed";
    if (name === "FP" || name === "FN") $("f-outcome").value = name;
    if (["surprise", "FP", "FN"].includes(name)) $("s-by").value = "surprise";
    mark(name);
    update();
    redraw();
  }

  const mark = (name) => document.querySelectorAll("[data-preset]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.preset === name)));

  fill();
  document.querySelectorAll("[data-preset]").forEach((b) => b.addEventListener("click", () => preset(b.dataset.preset)));
  document.querySelectorAll("[id^=f-], [id^=s-]").forEach((e) => e.addEventListener("input", () => { mark(""); update(); }));
  document.querySelectorAll("select[id^=d-], input[id^=d-]").forEach((e) => e.addEventListener("input", redraw));
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  $("p-back").addEventListener("click", () => { state.page--; show(); });
  $("p-on").addEventListener("click", () => { state.page++; show(); });
  $("p-print").addEventListener("click", () => { document.body.classList.add("only-cases"); window.print(); });
  window.addEventListener("afterprint", () => document.body.classList.remove("only-cases"));
  $("o-back").addEventListener("click", () => step(-1));
  $("o-on").addEventListener("click", () => step(1));
  $("o-close").addEventListener("click", () => $("one").close());
  $("one").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  $("one").addEventListener("close", () => {
    const row = state.order[state.open];
    history.replaceState(null, "", location.pathname + location.search);
    const card_ = document.querySelector(`.card[data-row="${row}"]`);
    if (card_) card_.focus();
  });
  $("copy").addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents($("paper"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    $("copied").textContent = document.execCommand("copy") ? "Copied." : "Selected: copy it with the keyboard.";
  });
  window.addEventListener("hashchange", follow);
  preset(rows.status.includes("ok") ? "maps" : "everything");
  follow();
})();
