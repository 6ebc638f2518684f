// The picture: the part on the photo, the slider along the ranking, the brush, and what the model says of it.
// @ts-check
import {ask, get, getBlob, getBytes, Refused} from "./api.js";
import {$, h, inWords, percent, say, table, verdict} from "../../report/parts/dom.js";
import {countAt, counted, draw, drawCurve, packed, prefix, rankingOf, seenOf, standOf} from "../../report/parts/pixels.js";
import {imageId, uploadAgain} from "./run.js";
import {inputSize, model, partOf, state, target} from "./state.js";

/** Fetch what the model sees of the image, once. */
export async function loadPhoto() {
  const image = /** @type {import("./api.js").Uploaded} */ (state.image);
  const picture = await createImageBitmap(await getBlob(`/api/images/${image.id}`));
  const [height, width] = inputSize(), canvas = seenOf(picture, image.box, height, width);
  state.photo = canvas;
  $("canvas").width = canvas.width; $("canvas").height = canvas.height;
}

let drawn = 0;

/** Draw in the next frame. */
export function redraw() {
  cancelAnimationFrame(drawn);
  drawn = requestAnimationFrame(() => {
    if (!state.photo) return;
    const [height, width] = inputSize();
    draw($("canvas"), state.photo, state.mask, width, height, $("view").value, state.ranking?.saliency ?? null);
    if (cursor) drawCursor();
    if (state.ranking?.counts.length) {
      const style = getComputedStyle(document.body), colour = (/** @type {string} */ name) => style.getPropertyValue(name);
      drawCurve($("curve"), state.ranking, demanded(), state.mask ? counted(state.mask) : 0,
        {ink: colour("--ink"), act: colour("--act"), soft: colour("--soft")});
    }
  });
}

/** The confidence that is enough. */
const demanded = () => Number($("gamma").value) * (state.result?.confidence ?? known?.confidence ?? 1);

/** Show a part while it is being found. @param {string} bits */
export function showBest(bits) {
  state.mask = partOf(bits);
  redraw();
}

/** Show an explanation. @param {any} result */
export async function showResult(result) {
  state.result = result;
  state.mask = partOf(result.bits);
  state.painted = false;
  $("verdict").replaceChildren(verdictOn(result));
  $("whole-part").disabled = false;
  await loadRanking(result);
  placeSlider();
  redraw();
  soon();
}

/** @param {any} result */
export async function loadRanking(result) {
  state.ranking = rankingOf(await getBytes(result.ranking));
  $("slider").disabled = false;
  $("curve").hidden = !state.ranking.counts.length;
  redraw();
}

/** @param {any} result */
function verdictOn(result) {
  const name = `${result.target_name} (class ${result.target})`, size = percent(result.area);
  const kept = `It keeps ${percent(result.explanation_confidence)} confidence; the whole image has ${percent(result.confidence)}.`;
  const rest = [result.minimality && `Of it, ${result.minimality}.`, result.guarantee_in_words, ...result.notes];
  if (result.verdict === "empty") {
    return verdict("alarm", "No pixel is needed", `The model says ${name} even when nothing is shown. So no part of this image explains it.`, ...rest);
  }
  if (result.verdict === "insufficient") return verdict("bad", "No part was found that is enough", `For ${name}, with the settings chosen.`, kept, ...rest);
  return verdict("good", `${size} of the image is enough for ${name}`, kept, ...rest);
}

/** Put the slider where the part is. */
function placeSlider() {
  const size = state.mask?.length ?? 1, count = state.mask ? counted(state.mask) : 0;
  $("slider").value = String(standOf(count, size));
  showShare();
}

function showShare() {
  const share = state.mask ? counted(state.mask) / state.mask.length : 0;
  $("share").textContent = `${percent(share)} of the image${state.painted ? ", painted" : ""}`;
}

/** The slider moved. */
export function slid() {
  if (!state.ranking) return;
  const size = state.ranking.places.length;
  state.mask = prefix(state.ranking, countAt(Number($("slider").value), size));
  state.painted = false;
  $("slider").ariaValueText = percent(counted(state.mask) / size);
  showShare();
  redraw();
  soon();
}

// What the model says of the part that is shown: the last one is asked about, one question at a time.

/** @type {import("./api.js").Answers | null} */
let known = null;
let asking = false, stale = false;

/** Ask about the part that is shown, as soon as the last question is answered. */
export async function soon() {
  if (asking) { stale = true; return; }
  asking = true;
  try {
    do {
      stale = false;
      if (!state.mask) break;
      const started = performance.now();
      const found = await asked(state.mask, [$("occlusion").value]);
      if (!stale) said(found, performance.now() - started);
    } while (stale);
  } catch (error) {
    if (!(error instanceof DOMException)) say(inWords(error));
  } finally { asking = false; }
}

/** @param {Uint8Array} mask @param {string[]} occlusions @returns {Promise<import("./api.js").Answers>} */
export async function asked(mask, occlusions) {
  const part = {masks: [packed(mask)], occlusions, target: state.result && !state.result.against ? state.result.target : target(), model: $("model").value};
  try { return await ask(imageId(), part); } catch (error) {
    if (!(error instanceof Refused) || error.status !== 404) throw error;
    await uploadAgain();
    return ask(imageId(), part);
  }
}

/** @param {import("./api.js").Said} each @param {import("./api.js").Answers} found */
export const isEnough = (each, found) => each.on_top && each.confidence >= Number($("gamma").value) * found.confidence;

/** @param {import("./api.js").Answers} found @param {number} milliseconds */
function said(found, milliseconds) {
  known = found;
  const worst = found.answers[0].reduce((a, b) => (a.on_top === b.on_top ? a.confidence < b.confidence : !a.on_top) ? a : b);
  const enough = found.answers[0].every(each => isEnough(each, found));
  const other = worst.on_top ? `next: ${worst.other_name} ${percent(worst.other_confidence)}` : `it says ${worst.top_name} ${percent(worst.top_confidence)}`;
  $("says").textContent = `${enough ? "Enough" : "Not enough"}: ${found.target_name} ${percent(worst.confidence)} under ${$("occlusion").value}; ${other}.`;
  $("says").dataset.milliseconds = milliseconds.toFixed(0);
  $("says").dataset.enough = String(enough);
}

/** Ask about the part under each occlusion that the model has. */
export async function askEverywhere() {
  if (!state.mask) return;
  const names = model().occlusions.filter((/** @type {string} */ name) => name !== "robust");
  $("answers").replaceChildren(h("p", {}, "Asking…"));
  try {
    const found = await asked(state.mask, names);
    $("answers").replaceChildren(table(["Hidden pixels are", "Enough?", "Confidence", "Next or instead", "Its confidence"],
      found.answers[0].map(each => [each.occlusion, isEnough(each, found) ? {text: "yes", className: "yes"} : {text: "no", className: "no"},
        {text: percent(each.confidence), sort: each.confidence}, each.other_name,
        {text: percent(each.other_confidence), sort: each.other_confidence}])));
  } catch (error) { $("answers").replaceChildren(h("p", {}, inWords(error))); }
}

// The brush

/** Where the brush is when the keyboard moves it, in pixels of the model. @type {[number, number] | null} */
let cursor = null;

/** @param {number} x @param {number} y in pixels of the model @param {boolean} on */
function dab(x, y, on) {
  const [height, width] = inputSize(), radius = Number($("brush-size").value);
  state.mask ??= new Uint8Array(height * width);
  if (!state.painted) { state.mask = state.mask.slice(); state.painted = true; }
  for (let row = Math.max(0, Math.ceil(y - radius)); row < Math.min(height, y + radius); row++)
    for (let column = Math.max(0, Math.ceil(x - radius)); column < Math.min(width, x + radius); column++)
      if ((row - y) ** 2 + (column - x) ** 2 <= radius ** 2) state.mask[row * width + column] = on ? 1 : 0;
  showShare();
  redraw();
}

/** @param {PointerEvent} event @returns {[number, number]} */
function placeOf(event) {
  const box = $("canvas").getBoundingClientRect(), [height, width] = inputSize();
  return [(event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.height * height];
}

/** @returns {string} off, paint or erase */
const brush = () => /** @type {HTMLInputElement} */ (document.querySelector("input[name=brush]:checked")).value;

function drawCursor() {
  const canvas = $("canvas"), [height, width] = inputSize(), context = canvas.getContext("2d");
  const [x, y] = /** @type {[number, number]} */ (cursor), scale = canvas.width / width;
  context.beginPath();
  context.arc(x * scale, y * canvas.height / height, Number($("brush-size").value) * scale, 0, 7);
  context.strokeStyle = "#f0f"; context.lineWidth = 3; context.stroke();
}

/** Paint with pointer and keyboard. */
export function watchBrush() {
  const canvas = $("canvas");
  let down = false;
  canvas.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    if (brush() === "off" || !state.photo) return;
    down = true; cursor = null;
    try { canvas.setPointerCapture(event.pointerId); } catch { /* a pointer that is gone */ }
    dab(...placeOf(event), brush() === "paint");
  });
  canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => { if (down) dab(...placeOf(event), brush() === "paint"); });
  canvas.addEventListener("pointerup", () => { if (down) { down = false; soon(); } });
  canvas.addEventListener("pointercancel", () => { down = false; });
  canvas.addEventListener("blur", () => { cursor = null; redraw(); });
  canvas.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (!state.photo) return;
    const [height, width] = inputSize(), step = Number($("brush-size").value);
    const moves = /** @type {Record<string, [number, number]>} */ ({ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]});
    if (event.key in moves) {
      const [x, y] = cursor ?? [width / 2, height / 2], [dx, dy] = moves[event.key];
      cursor = [Math.min(width - 1, Math.max(0, x + dx)), Math.min(height - 1, Math.max(0, y + dy))];
      redraw();
    } else if (event.key === " ") {
      cursor ??= [width / 2, height / 2];
      dab(...cursor, !event.shiftKey && brush() !== "erase");
      soon();
    } else return;
    event.preventDefault();
  });
  document.querySelectorAll("input[name=brush]").forEach(each => each.addEventListener("change", () => canvas.classList.toggle("brush", brush() !== "off")));
}

/** @param {0 | 1} value all of the image, or nothing of it */
export function fill(value) {
  const [height, width] = inputSize();
  state.mask = new Uint8Array(height * width).fill(value);
  state.painted = true;
  showShare(); redraw(); soon();
}

/** Back to the part of the explanation. */
export function back() {
  if (!state.result) return;
  state.mask = partOf(state.result.bits);
  state.painted = false;
  placeSlider(); redraw(); soon();
}

/** Names of classes for the fields that take one. */
export async function loadClasses() {
  const names = await get(`/api/classes?model=${encodeURIComponent($("model").value)}`);
  $("classes").replaceChildren(...names.map((/** @type {string} */ name) => h("option", {value: name})));
}
