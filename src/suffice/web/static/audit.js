// The evidence of an audit, pasted on an image of the visitor's own.
// @ts-check
import {get, upload} from "./api.js";
import {$, h, inWords, percent, say, verdict} from "../../report/parts/dom.js";

/** @typedef {{name: string, target_name: string, where: string, verdict: string, why: string}} Cluster */

/** @typedef {{top_name: string, came: boolean, hidden_came: boolean, confidence: number, picture: string}} Paste */
/** @typedef {{before: string, already: boolean, confidence: number, pastes: Paste[], brings: boolean}} Pasted */

/** @type {string | null} */
let image = null;
/** @type {File | null} The file that was chosen last. */
let latest = null;
/** What is being asked about pastes, if anything. */
let asking = new AbortController();
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
  latest = file;
  image = null;
  asking.abort();
  $("pasted").replaceChildren();
  say("Reading the image…");
  try {
    const {id} = await upload(file, model);
    if (file !== latest) return;
    image = id;
  } catch (error) {
    if (file === latest) say(inWords(error));
    return;
  }
  await paste();
}

async function paste() {
  const index = $("cluster").value;
  if (!image || index === "") return;
  asking.abort();
  asking = new AbortController();
  const {signal} = asking;
  $("pasted").replaceChildren();
  say("Pasting…");
  try {
    const found = await get(`/api/audit/${index}/images/${image}`, {method: "POST", signal});
    if (signal.aborted) return;
    const name = clusters[index].target_name;
    $("pasted").replaceChildren(
      judged(found, name),
      h("div", {className: "strip"}, ...found.pastes.map((/** @type {Paste} */ each) => h("figure", {},
        h("img", {src: each.picture, alt: "The image with a member of the cluster"}),
        h("figcaption", {}, ...said(each, found.already), `${each.top_name}, ${name} at ${percent(each.confidence)}`)))));
    say("");
  } catch (error) { if (!signal.aborted) say(inWords(error)); }
}

/** Whether members bring the class, beside the control. @param {Pasted} found @param {string} name */
function judged(found, name) {
  const {pastes, already, brings} = found;
  if (already) return verdict("plain", `It says ${name} already`, `${name} at ${percent(found.confidence)}, so it cannot come. Choose an image of another class.`);
  const came = pastes.filter(each => each.came).length;
  const hidden = pastes.filter(each => each.hidden_came).length;
  return verdict(brings ? "alarm" : came ? "plain" : "good", `Pasted, ${name} comes in ${came} of ${pastes.length}`,
    `Before it says ${found.before}, ${name} at ${percent(found.confidence)}. With the same places in the image's mean colour ${name} comes in ${hidden} of ${pastes.length}.`,
    came && !brings ? `That the pasted parts bring ${name} more often than that is not shown.` : "");
}

/** @param {Paste} paste @param {boolean} already */
function said({came, hidden_came}, already) {
  return already ? [] : [h("strong", {}, came ? hidden_came ? "Comes hidden, too" : "Class comes" : "It does not"), ": "];
}

start().catch(error => say(inWords(error)));
