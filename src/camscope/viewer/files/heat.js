// Maps: from the raw grid of a layer to values on the picture, and from values to colours. Pure functions.

export const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

// Little-endian float32 numbers in base64.
export function floats(base64) {
  const raw = bytes(base64), view = new DataView(raw.buffer), values = new Float32Array(raw.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = view.getFloat32(4 * i, true);
  return values;
}

// For each pixel of one axis: the cell before it, the share of the next cell, and whether the network saw it.
function axis(cells, pixels, whole, start, extent) {
  const lower = new Int32Array(pixels), fraction = new Float32Array(pixels), inside = new Uint8Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const centre = ((i + 0.5) * whole) / pixels - start;
    const position = Math.min(Math.max((centre / extent) * cells - 0.5, 0), cells - 1);
    lower[i] = Math.min(Math.floor(position), Math.max(cells - 2, 0));
    fraction[i] = cells > 1 ? position - lower[i] : 0;
    inside[i] = centre >= 0 && centre < extent ? 1 : 0;
  }
  return { lower, fraction, inside };
}

// Place a map on a picture of width x height pixels, as camscope.heatmap.place does: linear, 0 outside of the window.
// map: {values, height, width, window: {picture: [H, W], start, extent}}; unless signed, negative values are 0.
export function place(map, width, height, signed = false) {
  const { picture, start, extent } = map.window, w = map.width;
  const y = axis(map.height, height, picture[0], start[0], extent[0]);
  const x = axis(map.width, width, picture[1], start[1], extent[1]);
  const values = signed ? map.values : map.values.map((v) => (v > 0 ? v : 0));
  const heat = new Float32Array(width * height), seen = new Uint8Array(width * height);
  const right = map.width > 1 ? 1 : 0, down = map.height > 1 ? w : 0;
  for (let i = 0; i < height; i++) {
    if (!y.inside[i]) continue;
    for (let j = 0; j < width; j++) {
      if (!x.inside[j]) continue;
      const at = y.lower[i] * w + x.lower[j], f = x.fraction[j], g = y.fraction[i];
      const above = values[at] * (1 - f) + values[at + right] * f;
      const below = values[at + down] * (1 - f) + values[at + down + right] * f;
      heat[i * width + j] = above * (1 - g) + below * g;
      seen[i * width + j] = 1;
    }
  }
  return { heat, seen, width, height, signed };
}

// The raw values at both ends of the colours: lowest and highest, or of a signed map the same distance from 0.
// A map without content has [0, 0].
export function limits({ heat, seen, signed }) {
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < heat.length; i++) if (seen[i]) { low = Math.min(low, heat[i]); high = Math.max(high, heat[i]); }
  if (!(high > low)) return [0, 0];
  if (signed) { const reach = Math.max(-low, high); return [-reach, reach]; }
  return high - low <= 1e-5 * Math.abs(high) ? [0, 0] : [low, high];
}

// Colour a placed map. table: 256 x 3 bytes; below the threshold (share of the strength) it is transparent; with fade
// its opacity grows with its strength.
export function paint({ heat, seen, width, height, signed }, { table, low, high, threshold = 0, fade = false }) {
  const image = new ImageData(width, height), out = image.data;
  for (let i = 0; i < heat.length; i++) {
    const value = high > low ? Math.min(Math.max((heat[i] - low) / (high - low), 0), 1) : signed ? 0.5 : 0;
    const strength = signed ? Math.abs(2 * value - 1) : value, at = 3 * Math.round(255 * value);
    out[4 * i] = table[at]; out[4 * i + 1] = table[at + 1]; out[4 * i + 2] = table[at + 2];
    const full = fade ? Math.min(255, Math.round(420 * strength)) : 255;
    out[4 * i + 3] = seen[i] && strength >= threshold ? full : 0;
  }
  return image;
}

// The colours from low to high, as a picture of width x height pixels.
export function bar(width, height, options, signed = false) {
  const heat = new Float32Array(width * height).map((_, i) => (i % width) / Math.max(width - 1, 1));
  const placed = { heat, seen: new Uint8Array(width * height).fill(1), width, height, signed };
  return paint(placed, { ...options, low: 0, high: 1 });
}

// A number with three significant digits and a true minus sign.
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "unknown";
  const size = Math.abs(value), text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "\u2212");
}
