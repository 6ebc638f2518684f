// What the page knows: the image, the question, the part that is shown.
// @ts-check
import {$} from "../../report/parts/dom.js";
import {unpacked} from "../../report/parts/pixels.js";

/**
 * @type {{facts: any, file: File | null, image: import("./api.js").Uploaded | null, photo: HTMLCanvasElement | null,
 *   job: string | null, result: any, ranking: import("../../report/parts/pixels.js").Ranking | null, mask: Uint8Array | null,
 *   painted: boolean, started: string, wanted: string | null}}
 */
export const state = {
  facts: null, file: null, image: null, photo: null, job: null, result: null, ranking: null, mask: null,
  painted: false, started: "", wanted: null,
};

/** The model that is chosen. @returns {any} */
export const model = () => state.facts.models.find((/** @type {any} */ each) => each.name === $("model").value);

/** [height, width] of what the model sees. @returns {[number, number]} */
export const inputSize = () => model().input_size;

/** The part in bits, of what the model sees. @param {string} bits @returns {Uint8Array} */
export function partOf(bits) {
  const [height, width] = inputSize();
  return unpacked(bits, height * width);
}

/** The class that is asked about, as the server takes it; null for the model's choice. @returns {string | null} */
export const target = () => $("target").value.trim() || null;

/** What the form asks for, as the server takes it. */
export function question() {
  return {
    do: "explain", model: $("model").value, method: $("method").value, occlusion: $("occlusion").value,
    keep_confidence: Number($("gamma").value), target: target(), kind: $("kind").value, seed: Number($("seed").value),
  };
}
