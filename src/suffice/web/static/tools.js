// What to do with a part: beside other methods, against another class, elsewhere, tested, as a circuit, several of them.
// @ts-check
import {getBlob} from "./api.js";
import {$, h, inWords, percent, table, verdict} from "../../report/parts/dom.js";
import {draw, packed, paste as pasteOn} from "../../report/parts/pixels.js";
import {run} from "./run.js";
import {inputSize, model, partOf, question, state} from "./state.js";
import {asked, isEnough, redraw, soon} from "./view.js";

/**
 * Run a job of a tool and say in its place how far it is.
 * @param {string} place id of the element @param {object} request @param {string} [what]
 */
async function runIn(place, request, what = "") {
  const line = h("p", {role: "status"}, `${what} Sent.`);
  $(place).append(line);
  try {
    const ended = await run(request, told => { line.textContent = `${what} ${told.state === "queued" ? "Waiting" : told.stage || "Running"}: ${percent(told.share)}, ${told.forward_passes} images asked.`; });
    line.remove();
    if (ended.state === "done") return ended;
    $(place).append(verdict("bad", ended.state === "cancelled" ? "Cancelled" : "It failed", ended.error ?? ""));
  } catch (error) { line.textContent = inWords(error); }
  return null;
}

/** What a job is asked about: the painted part, or that of the explanation. */
const part = () => state.mask && (state.painted || !state.job || packed(state.mask) !== state.result?.bits)
  ? {mask: packed(state.mask)} : {explanation: state.job};

/** A small picture of a part. @param {Uint8Array} mask @param {string} label @param {CanvasImageSource | null} [photo] */
function picture(mask, label, photo = state.photo) {
  const [height, width] = inputSize(), canvas = h("canvas", {width: width, height: height, role: "img", ariaLabel: label});
  if (photo) draw(canvas, photo, mask, width, height, "dimmed", null);
  return canvas;
}

/** @param {string} place @param {string} bits */
function showing(place, bits) {
  return h("button", {type: "button", onclick: () => { state.mask = partOf(bits); state.painted = true; redraw(); soon(); $("canvas").scrollIntoView({block: "center"}); }}, place);
}

async function compare() {
  const chosen = [...document.querySelectorAll("#compare-methods input:checked")].map(each => /** @type {HTMLInputElement} */ (each).value);
  const ids = [], figures = [];
  $("compared").replaceChildren();
  for (const method of chosen) {
    const ended = await runIn("compared", {...question(), method}, `${method}:`);
    if (!ended) continue;
    ids.push(ended.id);
    figures.push(h("figure", {}, picture(partOf(ended.result.bits), `Part by ${method}`),
      h("figcaption", {}, h("strong", {}, method), ` ${percent(ended.result.area)}, ${ended.result.verdict} `, showing("show", ended.result.bits))));
  }
  if (!ids.length) return;
  const strip = h("div", {className: "strip"}, ...figures);
  $("compared").append(strip);
  const scored = await runIn("compared", {do: "score", explanations: ids, model: $("model").value, metrics: ["area", "confidence", "insertion", "deletion", "msi"]}, "Scores:");
  if (!scored) return;
  const {scores, metrics, verdict: words} = scored.result, names = Object.keys(scores);
  if (words) strip.before(verdict(/disagree|None|No pixel/.test(words) ? "alarm" : "good", "Together", words));
  $("compared").append(table(["Score", ...names], Object.keys(metrics).map(metric => [
    `${metric} (${metrics[metric].higher_is_better ? "higher" : "lower"} is better)`, ...names.map(name => ({text: scores[name][metric].toFixed(3), sort: scores[name][metric]}))])));
}

async function why() {
  $("why-found").replaceChildren();
  const against = $("against").value.trim();
  if (!against) { $("why-found").replaceChildren(h("p", {}, "Say the other class first.")); return; }
  const ended = await runIn("why-found", {...question(), kind: "sufficient", against});
  if (!ended) return;
  const result = ended.result;
  const figures = [h("figure", {}, picture(partOf(result.bits), "What must be shown"),
    h("figcaption", {}, `${percent(result.area)} shown is enough to say ${result.target_name} rather than ${result.against}. `, showing("show", result.bits)))];
  if (result.must_go) figures.push(h("figure", {}, picture(partOf(result.must_go), "What must go"),
    h("figcaption", {}, `Hide these ${percent(result.must_go_area)} and it says ${result.against}. `, showing("show", result.must_go))));
  const first = result.verdict === "sufficient" ? "Between these two classes" : result.verdict === "empty" ? "No pixel is needed to prefer the first" : "No part was found that decides it";
  $("why-found").replaceChildren(verdict(result.verdict === "sufficient" ? "good" : "alarm", first,
    result.must_go ? "" : `Not even with all of the image hidden does it say ${result.against}.`), h("div", {className: "strip"}, ...figures));
}

const COLOURS = ["min", "max", "colour:#808080", "colour:#c03020", "colour:#208040", "colour:#2050c0", "colour:#e0c040", "noise", "blur"];

async function paste() {
  if (!state.mask || !state.image || !state.photo) return;
  $("pasted").replaceChildren(h("p", {role: "status"}, "Pasting…"));
  const samples = state.facts.samples.filter((/** @type {any} */ each) => each.sha256 !== state.image?.sha256).map((/** @type {any} */ each) => `image:sample:${each.name}`);
  const names = [...COLOURS, ...samples];
  try {
    const found = await asked(state.mask, names), [height, width] = inputSize(), mask = state.mask;
    const kept = found.answers[0].filter(each => each.on_top).length;
    const figures = await Promise.all(found.answers[0].map(async each => h("figure", {}, await pastedOn(each.occlusion, mask, width, height),
      h("figcaption", {}, h("strong", {}, isEnough(each, found) ? "Enough" : each.on_top ? "Class kept" : "Class lost"), `: ${each.on_top ? found.target_name : each.top_name} ${percent(each.top_confidence)}`))));
    $("pasted").replaceChildren(verdict(kept === names.length ? "good" : "alarm", `On ${kept} of ${names.length} backgrounds the part keeps the class`, ""), h("div", {className: "strip"}, ...figures));
  } catch (error) { $("pasted").replaceChildren(h("p", {}, inWords(error))); }
}

/** @param {string} occlusion @param {Uint8Array} mask @param {number} width @param {number} height */
async function pastedOn(occlusion, mask, width, height) {
  const address = `/api/images/${state.image?.id}/background?occlusion=${encodeURIComponent(occlusion)}&model=${encodeURIComponent($("model").value)}`;
  const behind = await createImageBitmap(await getBlob(address));
  const canvas = h("canvas", {width, height, role: "img", ariaLabel: `The part on ${occlusion}`});
  pasteOn(canvas, /** @type {CanvasImageSource} */ (state.photo), mask, behind);
  return canvas;
}

async function certificate() {
  $("certified").replaceChildren();
  const ended = await runIn("certified", {do: "verify", ...part(), model: $("model").value, target: state.result?.target ?? null, over: $("over").value, rho: Number($("rho").value)});
  if (!ended) return;
  const {guarantee, in_words: words, counterexample_name: name} = ended.result;
  const kind = guarantee.verdict === "certified" || guarantee.verdict === "proved" ? "good" : guarantee.verdict === "refuted" ? "bad" : "alarm";
  $("certified").append(verdict(kind, words, ...guarantee.notes));
  if (ended.files["counterexample.png"]) $("certified").append(h("figure", {}, h("img", {src: ended.files["counterexample.png"], alt: "The first image with the part in it that lost the class"}), h("figcaption", {}, `Here it says ${name}.`)));
}

async function circuit() {
  $("traced").replaceChildren();
  const ended = await runIn("traced", {do: "circuit", ...part(), model: $("model").value, target: state.result?.target ?? null, keep_confidence: Number($("gamma").value)});
  if (!ended) return;
  const found = ended.result;
  $("traced").append(verdict(found.sufficient ? "good" : "alarm",
    `${percent(found.share)} of the channels ${found.sufficient ? "suffice" : "do not suffice"}`,
    `${found.channels} of ${found.channels_total}; the circuit's confidence is ${percent(found.circuit_confidence)}.`,
    found.random_kept === null ? "" : `Of random circuits of that size ${percent(found.random_kept)} keep the class.`),
  h("img", {src: found.svg, alt: "The strongest channels of the circuit, layer by layer", className: "wide"}),
  h("p", {}, h("a", {href: `/api/jobs/${ended.id}/files.zip`, download: ""}, "Download the circuit")));
}

async function several() {
  $("several-found").replaceChildren();
  const ended = await runIn("several-found", {...question(), count: Number($("count").value)});
  if (!ended) return;
  const parts = ended.result.parts, enough = parts.filter((/** @type {any} */ each) => each.verdict === "sufficient").length;
  $("several-found").append(verdict(enough > 1 ? "good" : "alarm", enough > 1 ? `${enough} parts, each enough alone` : enough ? "One part alone is enough" : "No part was found that is enough", ""),
    h("div", {className: "strip"}, ...parts.map((/** @type {any} */ each, /** @type {number} */ index) => h("figure", {}, picture(partOf(each.bits), `Part ${index + 1}`),
      h("figcaption", {}, `Part ${index + 1}: ${percent(each.area)}, confidence ${percent(each.explanation_confidence)} `, showing("show", each.bits))))));
}

/** The methods that can be compared, the quick ones chosen. */
export function listMethods() {
  const chosen = ["causal", "grad-cam", "layer-cam"];
  const old = $("compare-methods");
  old.replaceChildren(h("legend", {}, "Methods"), ...model().methods.map((/** @type {string} */ name) => h("label", {}, h("input", {type: "checkbox", value: name, checked: chosen.includes(name)}), ` ${name}`)));
}

/** @param {string} id @param {() => Promise<void>} does */
function button(id, does) {
  $(id).addEventListener("click", async () => {
    $(id).disabled = true;
    try { await does(); } finally { $(id).disabled = false; }
  });
}

/** The buttons of all tools. */
export function watchTools() {
  for (const [id, does] of Object.entries({compare, why, paste, certify: certificate, circuit, several})) button(id, does);
}

