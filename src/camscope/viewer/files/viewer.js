import { bar, limits, number, paint, place } from "./heat.js";
import { canvasOf, dab, flood, outline, runs, toned } from "./picture.js";

export const HELP = "Arrow keys move the cross, with Shift the picture. Plus and minus zoom, 0 shows all. Space uses the tool at the cross. "
  + "O and P change the opacity, T and Y the threshold, C the colours, M the view, I inverts the tones.";
export const MODES = { overlay: "map over picture", side: "side by side", swipe: "swipe", picture: "picture alone", map: "map alone" };
export const INITIAL = { opacity: 0.6, threshold: 0, colours: "byr", fade: true, mode: "overlay", swipe: 0.5, low: 0, high: 1, outlines: true,
  zoom: 1, x: 0.5, y: 0.5, tool: "move", radius: 6, erase: false };
const SIGNED = "RdBu_r", LONGEST = 1024, HALO = "rgb(0 0 0 / .75)", INK = ["#4dd2ff", "#ffd24d", "#ff8ad4", "#a6ff8a"];

// How viewers draw: any number of them share one, so that they zoom and change together.
export class Look extends EventTarget {
  constructor(values = {}) { super(); Object.assign(this, INITIAL, values); }
  set(changes) {
    Object.assign(this, changes);
    this.zoom = Math.min(Math.max(this.zoom, 1), 40);
    for (const name of ["x", "y"]) this[name] = Math.min(Math.max(this[name], 0.5 / this.zoom), 1 - 0.5 / this.zoom);
    for (const name of ["opacity", "threshold", "swipe"]) this[name] = Math.min(Math.max(this[name], 0), 1);
    this.dispatchEvent(new CustomEvent("change", { detail: changes }));
  }
  get signed() { return this.colours === SIGNED; }
}

export function element(tag, options = {}, ...children) {
  const { text, data, ...rest } = options, made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(rest)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  Object.assign(made.dataset, data);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// One picture with one map. Events: "mask" after the brush has changed the mask.
export class Viewer extends EventTarget {
  constructor(host, look, tables, { label = "Picture" } = {}) {
    super();
    Object.assign(this, { look, tables, picture: null, map: null, regions: [], mask: null, cross: null, label, fingers: new Map() });
    this.canvas = element("canvas", { tabindex: "0", role: "application", "aria-roledescription": "picture", "aria-label": `${label}. ${HELP}` });
    this.scale = element("canvas", { role: "img", "aria-label": "Colour bar", width: 256, height: 10 });
    this.ends = [element("span"), element("span"), element("span", { class: "unit" })];
    this.bar = element("div", { class: "viewer-bar" }, this.ends[0], this.scale, this.ends[1], this.ends[2]);
    this.reading = element("output", { class: "viewer-reading", "aria-live": "polite", text: "\u00a0" });
    host.replaceChildren(element("div", { class: "viewer-stage" }, this.canvas), this.bar, this.reading);
    host.classList.add("viewer");
    this.listener = () => this.redraw();
    look.addEventListener("change", this.listener);
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(host);
    this.listen();
  }

  close() {
    this.look.removeEventListener("change", this.listener);
    this.observer.disconnect();
  }

  // picture: {width, height, channels, pixels, full: [H, W]}; full is the size of the file, in whose pixels places are read.
  setPicture(picture) {
    Object.assign(this, { picture, tones: null, map: null, regions: [], mask: new Uint8Array(picture.width * picture.height), maskPath: null, cross: null });
    this.redraw();
  }

  // map: {values, height, width, window, title, unit}, or null.
  setMap(map) {
    this.map = map;
    this.placed = null;
    this.redraw();
  }

  // regions: [{name, mask: Uint8Array of the picture's pixels}].
  setRegions(regions) {
    this.regions = regions.map((region) => ({ ...region, path: outline(region.mask, this.picture.width, this.picture.height) }));
    this.redraw();
  }

  clearMask() { this.mask?.fill(0); this.masked(); }
  masked() {
    this.maskPath = this.mask.some(Boolean) ? outline(this.mask, this.picture.width, this.picture.height) : null;
    this.redraw();
    this.dispatchEvent(new Event("mask"));
  }
  maskRuns() { return { height: this.picture.height, width: this.picture.width, runs: runs(this.mask) }; }

  heat() {
    const { picture, map, look } = this;
    if (!this.placed || this.placed.signed !== look.signed) {
      const factor = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
      this.placed = place(map, Math.round(picture.width * factor), Math.round(picture.height * factor), look.signed);
      this.limits = limits(this.placed);
    }
    const key = [look.colours, look.threshold, look.fade].join();
    if (this.placed.key !== key) {
      const options = { table: this.tables[look.colours], low: this.limits[0], high: this.limits[1], threshold: look.threshold, fade: look.fade };
      this.placed.canvas = canvasOf(this.placed.width, this.placed.height);
      this.placed.canvas.getContext("2d").putImageData(paint(this.placed, options), 0, 0);
      this.placed.key = key;
    }
    return this.placed.canvas;
  }

  panes() {
    const { canvas, look } = this, half = canvas.width / 2;
    if (look.mode !== "side" || !this.map) return [{ x: 0, width: canvas.width, shows: look.mode === "side" ? "picture" : look.mode }];
    return [{ x: 0, width: half - 2, shows: "picture" }, { x: half + 2, width: half - 2, shows: "overlay" }];
  }

  // Pixels of the canvas per pixel of the picture, and where the picture's corner is.
  frame(pane) {
    const { picture, look, canvas } = this, factor = Math.min(pane.width / picture.width, canvas.height / picture.height) * look.zoom;
    return { factor, x: pane.x + pane.width / 2 - look.x * picture.width * factor, y: canvas.height / 2 - look.y * picture.height * factor };
  }

  redraw() {
    const { canvas, picture, look } = this, wide = canvas.parentElement.clientWidth;
    if (!picture || !wide) return;
    const dots = Math.min(window.devicePixelRatio || 1, 2), columns = look.mode === "side" && this.map ? 2 : 1;
    const tall = Math.min((wide / columns) * (picture.height / picture.width), 0.72 * Math.max(window.innerHeight, 480));
    Object.assign(canvas, { width: Math.round(wide * dots), height: Math.round(tall * dots) });
    canvas.style.height = `${tall}px`;
    canvas.style.touchAction = look.zoom === 1 && look.tool === "move" ? "pan-y" : "none";
    const tone = `${look.low} ${look.high}`;
    if (!this.tones || this.tones.key !== tone) this.tones = Object.assign(toned(picture, look.low, look.high), { key: tone });
    for (const pane of this.panes()) this.drawPane(canvas.getContext("2d"), pane, dots);
    this.drawBar();
  }

  drawPane(context, pane, dots) {
    const { picture, look, canvas } = this, { factor, x, y } = this.frame(pane), size = [x, y, picture.width * factor, picture.height * factor];
    context.save();
    context.beginPath();
    context.rect(pane.x, 0, pane.width, canvas.height);
    context.clip();
    context.imageSmoothingEnabled = factor < 6;
    if (pane.shows !== "map") context.drawImage(this.tones, ...size);
    if (this.map && pane.shows !== "picture") {
      if (pane.shows === "swipe") {
        context.beginPath();
        context.rect(look.swipe * canvas.width, 0, canvas.width, canvas.height);
        context.clip();
      }
      context.globalAlpha = pane.shows === "map" ? 1 : look.opacity;
      context.imageSmoothingEnabled = true;
      context.drawImage(this.heat(), ...size);
      context.globalAlpha = 1;
    }
    context.restore();
    context.save();
    context.setTransform(factor, 0, 0, factor, x, y);
    const stroke = (path, ink) => [[HALO, 3], [ink, 1.5]].forEach(([colour, width]) => {
      Object.assign(context, { strokeStyle: colour, lineWidth: (width * dots) / factor });
      context.stroke(path);
    });
    if (look.outlines) this.regions.forEach((region, n) => stroke(region.path, region.ink || INK[n % INK.length]));
    if (this.maskPath) { context.fillStyle = "rgb(77 210 255 / .22)"; this.fillMask(context); stroke(this.maskPath, INK[0]); }
    if (this.cross) {
      const arm = (12 * dots) / factor, path = new Path2D();
      path.moveTo(this.cross[0] - arm, this.cross[1]); path.lineTo(this.cross[0] + arm, this.cross[1]);
      path.moveTo(this.cross[0], this.cross[1] - arm); path.lineTo(this.cross[0], this.cross[1] + arm);
      if (look.tool === "brush") { path.moveTo(this.cross[0] + this.radius, this.cross[1]); path.arc(...this.cross, this.radius, 0, 7); }
      stroke(path, "#fff");
    }
    context.restore();
    if (pane.shows === "swipe" && this.map) {
      context.fillStyle = "#fff";
      context.fillRect(look.swipe * canvas.width - dots, 0, 2 * dots, canvas.height);
    }
  }

  fillMask(context) {
    const { width } = this.picture, found = runs(this.mask);
    for (let i = 0; i < found.length; i += 2) {
      for (let at = found[i], end = at + found[i + 1]; at < end;) {
        const length = Math.min(end, (Math.floor(at / width) + 1) * width) - at;
        context.fillRect(at % width, Math.floor(at / width), length, 1);
        at += length;
      }
    }
  }

  drawBar() {
    const { look, map } = this;
    this.bar.hidden = !map || look.mode === "picture";
    if (this.bar.hidden) return;
    this.heat();
    this.scale.getContext("2d").putImageData(bar(256, 10, { table: this.tables[look.colours], threshold: look.threshold }, look.signed), 0, 0);
    const [low, high] = this.limits, flat = !(high > low);
    [this.ends[0].textContent, this.ends[1].textContent] = flat ? ["", ""] : [number(low), number(high)];
    this.ends[2].textContent = flat ? "no positive evidence on this map" : map.unit || "value of the map";
    this.scale.setAttribute("aria-label", flat ? "Colour bar: the map is empty" : `Colour bar: ${number(low)} to ${number(high)}, ${this.ends[2].textContent}`);
  }

  get radius() { return (this.look.radius / 200) * Math.max(this.picture.width, this.picture.height); }

  // The place in pixels of the picture of a point of the window.
  at(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect(), dots = this.canvas.width / box.width;
    const px = (clientX - box.left) * dots, py = (clientY - box.top) * dots;
    const pane = this.panes().find((one) => px < one.x + one.width) || this.panes()[0], { factor, x, y } = this.frame(pane);
    return { x: (px - x) / factor, y: (py - y) / factor, factor: factor / dots, px: px / this.canvas.width };
  }

  read(x, y) {
    const { picture, map } = this, j = Math.floor(x), i = Math.floor(y);
    if (i < 0 || j < 0 || i >= picture.height || j >= picture.width) { this.reading.textContent = "\u00a0"; return; }
    const [tall, wide] = picture.full || [picture.height, picture.width], said = [`x ${Math.floor((x / picture.width) * wide)}, y ${Math.floor((y / picture.height) * tall)}`];
    if (map) {
      this.heat();
      const { width, height, heat, seen } = this.placed, at = Math.floor((y / picture.height) * height) * width + Math.floor((x / picture.width) * width);
      said.push(seen[at] ? `map ${number(heat[at])}` : "the network did not see this place");
    }
    for (const region of this.regions) if (region.mask[i * picture.width + j]) said.push(region.name);
    if (this.mask[i * picture.width + j]) said.push("your region");
    this.reading.textContent = said.join(" \u00b7 ");
  }

  // Use the tool at a place: paint, or take the hot area there.
  use({ x, y }) {
    const { picture, look, mask } = this;
    if (look.tool === "brush") dab(mask, picture.width, picture.height, { x, y, radius: this.radius, value: look.erase ? 0 : 1 });
    else if (look.tool === "hot" && this.map && x >= 0 && y >= 0 && x < picture.width && y < picture.height) {
      this.heat();
      const { placed } = this, least = Math.max(look.threshold, 0.5) * this.limits[1];
      const hot = (at) => placed.heat[Math.floor((Math.floor(at / picture.width) / picture.height) * placed.height) * placed.width + Math.floor(((at % picture.width) / picture.width) * placed.width)] >= least;
      if (this.limits[1] > 0) flood(mask, picture.width, picture.height, Math.floor(y) * picture.width + Math.floor(x), hot);
    } else return;
    this.masked();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => { this.fingers.delete(event.pointerId); this.pinch = null; });
    canvas.addEventListener("wheel", (event) => {
      if (!this.picture || !(event.ctrlKey || document.activeElement === canvas)) return;
      event.preventDefault();
      this.zoomAt(this.at(event.clientX, event.clientY), 1.0015 ** -event.deltaY);
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.look.tool === "move" && this.look.set({ zoom: 1, x: 0.5, y: 0.5 }));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => { this.cross = null; this.redraw(); });
  }

  zoomAt({ x, y }, by) {
    const { look, picture } = this, zoom = Math.min(Math.max(look.zoom * by, 1), 40), share = look.zoom / zoom;
    look.set({ zoom, x: x / picture.width + (look.x - x / picture.width) * share, y: y / picture.height + (look.y - y / picture.height) * share });
  }

  down(event) {
    if (!this.picture) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture?.(event.pointerId);
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.fingers.size === 1 && event.button === 0) { event.preventDefault(); this.canvas.focus({ preventScroll: true }); this.use(this.at(event.clientX, event.clientY)); }
  }

  move(event) {
    if (!this.picture) return;
    const place = this.at(event.clientX, event.clientY), before = this.fingers.get(event.pointerId), { look, picture } = this;
    this.read(place.x, place.y);
    if (!before) return;
    const by = [event.clientX - before[0], event.clientY - before[1]];
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.fingers.size === 2) {
      const [a, b] = [...this.fingers.values()], distance = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (this.pinch) this.zoomAt(this.at((a[0] + b[0]) / 2, (a[1] + b[1]) / 2), distance / this.pinch);
      this.pinch = distance;
    } else if (look.tool === "brush") this.use(place);
    else if (look.tool === "window") {
      const level = (look.low + look.high) / 2 + by[1] / 400, width = Math.sign(look.high - look.low || 1) * Math.max(Math.abs(look.high - look.low) + by[0] / 400, 0.01);
      look.set({ low: level - width / 2, high: level + width / 2 });
    } else if (look.mode === "swipe" && look.zoom === 1 && look.tool === "move") look.set({ swipe: place.px });
    else if (look.tool === "move") look.set({ x: look.x - by[0] / place.factor / picture.width, y: look.y - by[1] / place.factor / picture.height });
  }

  key(event) {
    if (!this.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const { look, picture } = this, arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, arrow = arrows[event.key];
    const next = (names, value) => names[(names.indexOf(value) + 1) % names.length], key = event.key.toLowerCase();
    const steps = { "+": () => this.zoomAt(this.middle(), 1.25), "=": () => this.zoomAt(this.middle(), 1.25), "-": () => this.zoomAt(this.middle(), 0.8),
      0: () => look.set({ zoom: 1, x: 0.5, y: 0.5 }), o: () => look.set({ opacity: look.opacity - 0.05 }), p: () => look.set({ opacity: look.opacity + 0.05 }),
      t: () => look.set({ threshold: look.threshold - 0.05 }), y: () => look.set({ threshold: look.threshold + 0.05 }), i: () => look.set({ low: look.high, high: look.low }),
      c: () => look.set({ colours: next(Object.keys(this.tables), look.colours) }), m: () => look.set({ mode: next(Object.keys(MODES), look.mode) }),
      "[": () => look.set({ swipe: look.swipe - 0.05 }), "]": () => look.set({ swipe: look.swipe + 0.05 }),
      " ": () => { const { x, y } = this.middle(); this.cross = [x, y]; this.use({ x, y }); this.read(x, y); } };
    if (arrow && event.shiftKey) look.set({ x: look.x + (0.08 * arrow[0]) / look.zoom, y: look.y + (0.08 * arrow[1]) / look.zoom });
    else if (arrow) {
      const { x, y } = this.middle(), step = Math.max(picture.width, picture.height) / (50 * look.zoom);
      this.cross = [Math.min(Math.max(x + step * arrow[0], 0), picture.width - 1), Math.min(Math.max(y + step * arrow[1], 0), picture.height - 1)];
      this.read(...this.cross);
      this.redraw();
    } else if (steps[key]) steps[key]();
    else return;
    event.preventDefault();
  }

  middle() {
    const [x, y] = this.cross || [this.look.x * this.picture.width, this.look.y * this.picture.height];
    return { x, y };
  }
}
