// The evidence of an audit, pasted on an image of the visitor's own.
// @ts-check
import {get, upload} from "./api.js";
import {$, h, inWords, percent, say, verdict} from "../../report/parts/dom.js";

/** @typedef {{name: string, target_name: string, where: string, verdict: string, why: string}} Cluster */

/** @type {string | null} */
let image = null;
let model = "";
/** @type {Cluster[]} */
let clusters = [];

async function start() {
  const told = await get("/api/audit");
  model = told.model;
  clusters = told.clusters;
  $("cluster").replaceChildren(...clusters.map((each, index) => h("option", {value: index}, `${each.name}, ${each.where}: ${each.verdict}`)));
  const about = () => { $("about").textContent = clusters.length ? `${clusters[$("cluster").value].why}.` : "No part recurs in this audit."; };
  about();
  if (told.left_out) $("left-out").textContent = `Surroundings are left out (${told.left_out}): they would cover the object of your image.`;
  $("cluster").addEventListener("change", () => { about(); paste(); });
  $("file").addEventListener("change", (/** @type {any} */ event) => take(event.target.files[0]));
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, event => event.preventDefault());
  document.addEventListener("drop", event => take(event.dataTransfer?.files[0]));
  document.body.dataset.ready = "yes";
}

/** @param {File | undefined} file */
async function take(file) {
  if (!file) return;
  try { image = (await upload(file, model)).id; } catch (error) { say(inWords(error)); return; }
  await paste();
}

async function paste() {
  if (!image || $("cluster").value === "") return;
  say("Pasting…");
  try {
    const found = await get(`/api/audit/${$("cluster").value}/images/${image}`, {method: "POST"});
    const name = clusters[$("cluster").value].target_name;
    const came = found.pastes.some((/** @type {any} */ each) => each.came);
    $("pasted").replaceChildren(
      verdict(came ? "alarm" : "good", `Pasted, ${name} comes in ${found.came}`,
        `Before it says ${found.before}, ${name} at ${percent(found.confidence)}. With the same places in the image's mean colour ${name} comes in ${found.hidden_came} of ${found.pastes.length}.`),
      h("div", {className: "strip"}, ...found.pastes.map((/** @type {any} */ each) => h("figure", {},
        h("img", {src: each.picture, alt: "The image with a member of the cluster"}),
        h("figcaption", {}, h("strong", {}, each.came ? "Class comes" : "It does not"), `: ${each.top_name}, ${name} at ${percent(each.confidence)}`)))));
    say("");
  } catch (error) { say(inWords(error)); }
}

start().catch(error => say(inWords(error)));
