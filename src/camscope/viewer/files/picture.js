// Pictures: tones through a window, masks, and outlines. Pure functions.

export function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

// Draw pixels through a window: low becomes black and high white; low > high inverts.
// picture: {width, height, channels: 1 or 3, pixels: Uint8Array or Uint16Array}.
export function toned(picture, low, high) {
  const { width, height, channels, pixels } = picture;
  const top = pixels.BYTES_PER_ELEMENT === 2 ? 65535 : 255, table = new Uint8ClampedArray(top + 1);
  const span = Math.abs(high - low) < 1e-4 ? 1e-4 : high - low;
  for (let v = 0; v <= top; v++) table[v] = (255 * (v / top - low)) / span;
  const image = new ImageData(width, height), out = image.data;
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) out[4 * i + k] = table[pixels[channels * i + (channels === 3 ? k : 0)]];
    out[4 * i + 3] = 255;
  }
  const canvas = canvasOf(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// The tones between which a share of all pixels lies, as [low, high] in [0, 1].
export function spread(picture, share) {
  const top = picture.pixels.BYTES_PER_ELEMENT === 2 ? 65535 : 255, counts = new Uint32Array(top + 1);
  for (const v of picture.pixels) counts[v] += 1;
  const tail = (picture.pixels.length * (1 - share)) / 2;
  let low = 0, high = top, below = 0, above = 0;
  while (low < top && below + counts[low] <= tail) below += counts[low++];
  while (high > low && above + counts[high] <= tail) above += counts[high--];
  return low < high ? [low / top, high / top] : [0, 1];
}

// A circle of a mask set to a value.
export function dab(mask, width, height, { x, y, radius, value }) {
  const r = Math.max(radius, 0.5);
  for (let i = Math.max(0, Math.floor(y - r)); i <= Math.min(height - 1, Math.ceil(y + r)); i++) {
    for (let j = Math.max(0, Math.floor(x - r)); j <= Math.min(width - 1, Math.ceil(x + r)); j++) {
      if ((j + 0.5 - x) ** 2 + (i + 0.5 - y) ** 2 <= r * r) mask[i * width + j] = value;
    }
  }
}

// The connected part around a pixel in which a test holds, added to a mask; the number of its pixels.
export function flood(mask, width, height, from, holds) {
  if (!holds(from)) return 0;
  const stack = [from], seen = new Uint8Array(width * height);
  let count = 0;
  seen[from] = 1;
  while (stack.length) {
    const at = stack.pop(), j = at % width;
    mask[at] = 1;
    count += 1;
    for (const [next, valid] of [[at - 1, j > 0], [at + 1, j < width - 1], [at - width, at >= width], [at + width, at < width * (height - 1)]]) {
      if (valid && !seen[next] && holds(next)) { seen[next] = 1; stack.push(next); }
    }
  }
  return count;
}

// Runs of a mask, row by row: start, length, start, length, ...
export function runs(mask) {
  const found = [];
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    const start = i;
    while (i < mask.length && mask[i]) i++;
    found.push(start, i - start);
  }
  return found;
}

export function unrun(found, size) {
  const mask = new Uint8Array(size);
  for (let i = 0; i < found.length; i += 2) mask.fill(1, found[i], found[i] + found[i + 1]);
  return mask;
}

// The border between a mask and the rest, as a path of edges between pixels.
export function outline(mask, width, height) {
  const path = new Path2D(), on = (i, j) => i >= 0 && j >= 0 && i < height && j < width && mask[i * width + j];
  for (let i = 0; i <= height; i++) {
    for (let j = 0; j <= width; j++) {
      if (j < width && Boolean(on(i, j)) !== Boolean(on(i - 1, j))) { path.moveTo(j, i); path.lineTo(j + 1, i); }
      if (i < height && Boolean(on(i, j)) !== Boolean(on(i, j - 1))) { path.moveTo(j, i); path.lineTo(j, i + 1); }
    }
  }
  return path;
}
