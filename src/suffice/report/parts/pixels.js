// Masks, the ranking, and how they are drawn.
// @ts-check

/** @typedef {{height: number, width: number, places: Uint32Array, mask: Uint8Array, saliency: Uint8Array,
 *   counts: Uint32Array, confidences: Float32Array}} Ranking */

/** Rows of bits, eight to a byte, from base64. @param {string} text @param {number} size @returns {Uint8Array} */
export function unpacked(text, size) {
  const bytes = atob(text), mask = new Uint8Array(size);
  for (let i = 0; i < size; i++) mask[i] = (bytes.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1;
  return mask;
}

/** @param {Uint8Array} mask @returns {string} */
export function packed(mask) {
  const bytes = new Uint8Array((mask.length + 7) >> 3);
  for (let i = 0; i < mask.length; i++) if (mask[i]) bytes[i >> 3] |= 128 >> (i & 7);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

/** @param {ArrayBuffer} buffer as `ranking.py` writes it @returns {Ranking} */
export function rankingOf(buffer) {
  const [height, width, points, different] = new Uint32Array(buffer, 0, 4);
  const counts = new Uint32Array(points), confidences = new Float32Array(points), view = new DataView(buffer);
  for (let i = 0; i < points; i++) {
    counts[i] = view.getUint32(16 + 8 * i, true);
    confidences[i] = view.getFloat32(20 + 8 * i, true);
  }
  const size = height * width, bytes = different <= 256 ? 1 : different <= 65536 ? 2 : 3;
  const levels = new Uint8Array(buffer, 16 + 8 * points, different);
  const bits = new Uint8Array(buffer, levels.byteOffset + different, (size + 7) >> 3);
  const steps = new Uint8Array(buffer, bits.byteOffset + bits.length, bytes * size);
  const mask = new Uint8Array(size), ranks = new Uint32Array(size), saliency = new Uint8Array(size);
  for (let i = 0, rank = 0; i < size; i++) {
    mask[i] = (bits[i >> 3] >> (7 - (i & 7))) & 1;
    for (let byte = 0; byte < bytes; byte++) rank += steps[byte * size + i] << (8 * byte);
    ranks[i] = rank &= 2 ** (8 * bytes) - 1;
    saliency[i] = levels[rank];
  }
  return {height, width, places: placesOf(mask, ranks, width), mask, saliency, counts, confidences};
}

/**
 * The place of each pixel in the order, as `along.py` has it: those of the part first, then by rank, then by distance.
 * @param {Uint8Array} mask @param {Uint32Array} ranks @param {number} width @returns {Uint32Array}
 */
function placesOf(mask, ranks, width) {
  const size = mask.length, every = !counted(mask), away = new Float64Array(size), order = new Uint32Array(size);
  let rows = 0, columns = 0, count = 0;
  for (let i = 0; i < size; i++) if (mask[i] || every) { rows += Math.floor(i / width); columns += i % width; count++; }
  for (let i = 0; i < size; i++) {
    away[i] = (Math.floor(i / width) - rows / count) ** 2 + (i % width - columns / count) ** 2;
    order[i] = i;
  }
  order.sort((a, b) => mask[b] - mask[a] || ranks[a] - ranks[b] || away[a] - away[b] || a - b);
  const places = new Uint32Array(size);
  order.forEach((pixel, place) => { places[pixel] = place; });
  return places;
}

/** The first `count` pixels. @param {Ranking} ranking @param {number} count @returns {Uint8Array} */
export function prefix(ranking, count) {
  const mask = new Uint8Array(ranking.places.length);
  for (let i = 0; i < mask.length; i++) mask[i] = ranking.places[i] < count ? 1 : 0;
  return mask;
}

/** Where a part of `count` pixels stands on a slider from 0 to 1000, which has more room for small ones; and back.
 *  @param {number} count @param {number} size */
export const standOf = (count, size) => Math.round(1000 * Math.sqrt(count / size));

/** @param {number} stand @param {number} size */
export const countAt = (stand, size) => Math.round(size * (stand / 1000) ** 2);

/**
 * What the model sees of a photo, of a moderate size.
 * @param {CanvasImageSource & {width: number, height: number}} photo
 * @param {number[]} box left, top, right and bottom as shares of it @param {number} height of the model's input
 * @param {number} width @returns {HTMLCanvasElement}
 */
export function seenOf(photo, box, height, width) {
  const scale = Math.max(1, Math.round(448 / Math.max(height, width)));
  const [left, top, right, bottom] = box, canvas = document.createElement("canvas");
  canvas.width = width * scale; canvas.height = height * scale;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingEnabled = photo.width > width;
  context.drawImage(photo, left * photo.width, top * photo.height, (right - left) * photo.width,
    (bottom - top) * photo.height, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/**
 * Paste a part on a background.
 * @param {HTMLCanvasElement} canvas of the mask's size @param {CanvasImageSource} photo what the model sees
 * @param {Uint8Array} mask @param {CanvasImageSource | string} behind a picture, or a colour
 */
export function paste(canvas, photo, mask, behind) {
  const {width, height} = canvas, context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const layer = new OffscreenCanvas(width, height);
  const front = /** @type {OffscreenCanvasRenderingContext2D} */ (layer.getContext("2d"));
  front.drawImage(photo, 0, 0, width, height);
  const part = front.getImageData(0, 0, width, height);
  for (let i = 0; i < mask.length; i++) part.data[4 * i + 3] = mask[i] ? 255 : 0;
  front.putImageData(part, 0, 0);
  if (typeof behind === "string") { context.fillStyle = behind; context.fillRect(0, 0, width, height); }
  else context.drawImage(behind, 0, 0, width, height);
  context.drawImage(layer, 0, 0);
}

/** @param {Uint8Array} mask @returns {number} */
export function counted(mask) {
  let count = 0;
  for (let i = 0; i < mask.length; i++) count += mask[i];
  return count;
}

/**
 * Draw what the model sees of a photo, and the part.
 * @param {HTMLCanvasElement} canvas @param {CanvasImageSource} photo what the model sees, any size
 * @param {Uint8Array | null} mask @param {number} width of the mask @param {number} height
 * @param {"dimmed" | "alone" | "ranking"} view @param {Uint8Array | null} saliency
 */
export function draw(canvas, photo, mask, width, height, view, saliency) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingEnabled = true;
  context.drawImage(photo, 0, 0, canvas.width, canvas.height);
  if (!mask) return;
  const over = new ImageData(width, height), data = over.data;
  for (let i = 0; i < mask.length; i++) {
    const at = 4 * i;
    if (view === "ranking" && saliency) {
      const value = saliency[i] / 255;
      data[at] = 255 * Math.min(1, 2 * value); data[at + 1] = 255 * value * value; data[at + 2] = 255 * 0.5 * (1 - value);
      data[at + 3] = 215;
    } else if (!mask[i]) {
      const checked = ((i % width >> 3) + (Math.floor(i / width) >> 3)) & 1;
      const level = view === "alone" ? (checked ? 150 : 190) : 12;
      data[at] = data[at + 1] = data[at + 2] = level;
      data[at + 3] = view === "alone" ? 255 : 190;
    }
  }
  const layer = new OffscreenCanvas(width, height);
  /** @type {OffscreenCanvasRenderingContext2D} */ (layer.getContext("2d")).putImageData(over, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  outlined(context, mask, width, height, canvas.width / width, canvas.height / height);
}

/** @param {CanvasRenderingContext2D} context @param {Uint8Array} mask @param {number} width @param {number} height
 *  @param {number} x @param {number} y pixels of the canvas in one of the mask */
function outlined(context, mask, width, height, x, y) {
  const path = new Path2D();
  for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
    const at = row * width + column;
    if (column > 0 && mask[at] !== mask[at - 1]) { path.moveTo(column * x, row * y); path.lineTo(column * x, (row + 1) * y); }
    if (row > 0 && mask[at] !== mask[at - width]) { path.moveTo(column * x, row * y); path.lineTo((column + 1) * x, row * y); }
  }
  for (const [colour, line] of /** @type {[string, number][]} */ ([["#000", 4], ["#fff", 2]])) {
    context.strokeStyle = colour; context.lineWidth = line; context.stroke(path);
  }
}

/**
 * Draw the confidence along the ranking: the line, the level that is demanded, and where the slider is.
 * @param {HTMLCanvasElement} canvas @param {Ranking} ranking @param {number} demanded @param {number} count
 * @param {{ink: string, act: string, soft: string}} colours
 */
export function drawCurve(canvas, ranking, demanded, count, colours) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const size = ranking.places.length, {width, height} = canvas;
  const x = (/** @type {number} */ n) => Math.sqrt(n / size) * width, y = (/** @type {number} */ c) => height - 3 - c * (height - 6);
  context.clearRect(0, 0, width, height);
  context.lineWidth = 1; context.strokeStyle = colours.soft; context.setLineDash([4, 4]);
  context.beginPath(); context.moveTo(0, y(demanded)); context.lineTo(width, y(demanded)); context.stroke();
  context.setLineDash([]); context.lineWidth = 2.5; context.strokeStyle = colours.ink; context.beginPath();
  ranking.counts.forEach((n, i) => i ? context.lineTo(x(n), y(ranking.confidences[i])) : context.moveTo(x(n), y(ranking.confidences[i])));
  context.stroke();
  context.fillStyle = colours.ink;
  ranking.counts.forEach((n, i) => { context.beginPath(); context.arc(x(n), y(ranking.confidences[i]), 3, 0, 7); context.fill(); });
  context.strokeStyle = colours.act; context.beginPath(); context.moveTo(x(count), 0); context.lineTo(x(count), height); context.stroke();
}
