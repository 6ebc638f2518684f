// The page: what a visitor does, and what then happens.
// @ts-check
import {Gone, get, getBlob, there, upload} from "./api.js";
import {$, h, inWords, percent, say} from "../../report/parts/dom.js";
import {runFolder} from "./folder.js";
import {shown, stop} from "./run.js";
import {model, question, state} from "./state.js";
import {listMethods, watchTools} from "./tools.js";
import {askEverywhere, back, fill, loadClasses, loadPhoto, loadRanking, redraw, showBest, showResult, slid, soon, watchBrush} from "./view.js";

const POINTS = 24; // of the curve along the ranking

/** Words of settings in a link, and the fields that hold them. */
const IN_LINK = {model: "model", method: "method", occlusion: "occlusion", keep_confidence: "gamma", target: "target", kind: "kind", seed: "seed"};

async function start() {
  const health = await there();
  state.started = health.started;
  state.facts = await get("/api/models");
  state.facts.samples = [];
  $("to-audit").hidden = !state.facts.audit;
  options("model", state.facts.models.map((/** @type {any} */ each) => [each.name, each.name]));
  $("model-row").hidden = state.facts.models.length < 2;
  chooseModel();
  const link = fromLink();
  await Promise.all([loadClasses(), loadSamples()]);
  if (link) await openLink(link);
  document.body.dataset.ready = "yes";
}

/** @param {string} id @param {[string, string][]} choices value and text */
function options(id, choices) {
  const before = $(id).value;
  $(id).replaceChildren(...choices.map(([value, text]) => h("option", {value}, text)));
  if (choices.some(([value]) => value === before)) $(id).value = before;
}

function chooseModel() {
  const {methods, occlusions} = state.facts;
  /** @param {string[]} names @param {Record<string, string>} said @returns {[string, string][]} */
  const worded = (names, said) => names.map(name => [name, said[name] ? `${name}: ${said[name]}` : name]);
  options("method", worded(model().methods, methods));
  options("occlusion", worded(model().occlusions, occlusions));
  listMethods();
}

async function loadSamples() {
  state.facts.samples = await get("/api/samples");
  $("samples").replaceChildren(...state.facts.samples.map((/** @type {any} */ each) => h("button", {
    type: "button", onclick: () => useSample(each),
  }, h("img", {src: `/api/samples/${each.name}`, alt: "", loading: "lazy"}), each.name)));
}

/** @param {{name: string, file: string}} sample */
async function useSample(sample) {
  try { await use(new File([await getBlob(`/api/samples/${sample.name}`)], sample.file)); } catch (error) { fail(error); }
}

/** @param {unknown} error */
function fail(error) { say(inWords(error)); }

/** Take an image: show it, and what the model says of it. @param {File} file @param {boolean} [ask] and explain it */
async function use(file, ask = true) {
  try {
    say("Sending the image…");
    await stop();
    state.image = await upload(file, $("model").value);
  } catch (error) {
    if (error instanceof Gone) { say("The server does not answer. Waiting for it…"); state.started = (await there()).started; return use(file, ask); }
    return fail(error);
  }
  Object.assign(state, {file, job: null, result: null, ranking: null, mask: null, painted: false});
  await loadPhoto();
  $("verdict").replaceChildren(); $("answers").replaceChildren(); $("says").textContent = "";
  for (const id of ["compared", "why-found", "pasted", "certified", "traced", "several-found", "details"]) $(id).replaceChildren();
  const first = state.image.classes.slice(0, 3).map(([, name, confidence]) => `${name} ${percent(confidence)}`).join(", ");
  $("about").textContent = `${state.image.name}, ${state.image.size.join(" × ")}. The model says: ${first}. ${state.image.notes.join(" ")}`;
  $("picture").hidden = $("tools").hidden = false;
  $("explain").disabled = false;
  $("slider").disabled = true;
  const wanted = state.wanted;
  state.wanted = null;
  say(wanted === null ? "" : wanted === state.image.sha256 ? "This is the image of the link." : "This is another image than that of the link.");
  fill(1);
  showShareOfLink();
  if (ask) await explain();
}

async function explain() {
  if (!state.image) return say("Choose an image first.");
  state.result = null;
  const ended = await shown({...question(), curve: POINTS}, happening => {
    state.job = happening.id;
    if (happening.found && !state.result) foundEarly(happening.id);
    else if (happening.mask && !state.result) showBest(happening.mask);
  });
  if (!ended) return;
  state.job = ended.id;
  if (!state.result) await showResult(ended.result);
  else { state.result = ended.result; await loadRanking(ended.result); }
  keep(ended);
}

/** The part is there before the curve is. @param {string} id */
async function foundEarly(id) {
  state.result = {};
  const {result} = await get(`/api/jobs/${id}`);
  if (result && state.job === id) await showResult(result);
}

/** @param {import("./api.js").State} ended */
function keep(ended) {
  $("download").href = `/api/jobs/${ended.id}/files.zip`;
  $("command").textContent = ended.result.again.command;
  $("python").textContent = ended.result.again.python;
  const facts = {Method: ended.result.method, "Confidence to keep (γ)": ended.result.keep_confidence, "Threshold (τ)": ended.result.threshold,
    "Hidden pixels": ended.result.occlusion, Seed: ended.result.seed, "Images asked": ended.result.forward_passes,
    Seconds: ended.result.seconds.toFixed(1), Model: ended.result.model, "Image SHA-256": state.image?.sha256 ?? "", Version: ended.result.version};
  $("details").replaceChildren(h("details", {}, h("summary", {}, "Details"), h("dl", {}, ...Object.entries(facts).flatMap(([name, value]) => [h("dt", {}, h("strong", {}, name)), h("dd", {}, String(value))]))));
  showShareOfLink();
}

// Links: settings and the image's digest, behind the # that no server sees.

function showShareOfLink() {
  const words = new URLSearchParams();
  const asked = /** @type {Record<string, any>} */ (question());
  for (const name of Object.keys(IN_LINK)) if (asked[name] !== null) words.set(name, asked[name]);
  if (state.image) words.set("image", state.image.sha256);
  $("link").value = `${location.origin}/#${words}`;
}

/** @returns {string | null} the digest of the image that the link is about */
function fromLink() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (words.has("model")) { $("model").value = words.get("model"); if (!$("model").value) $("model").selectedIndex = 0; chooseModel(); }
  for (const [name, id] of Object.entries(IN_LINK)) if (name !== "model" && words.has(name)) $(id).value = words.get(name);
  for (const id of ["method", "occlusion", "kind"]) if (!$(id).value) $(id).selectedIndex = 0;
  showGamma();
  const digest = words.get("image");
  return digest && /^[0-9a-f]{64}$/.test(digest) ? digest : null;
}

/** @param {string} digest */
async function openLink(digest) {
  const sample = state.facts.samples.find((/** @type {any} */ each) => each.sha256 === digest);
  if (sample) return useSample(sample);
  state.wanted = digest;
  say(`This link is about an image with the digest ${digest.slice(0, 16)}…. Drop that image here.`);
}

async function copyLink() {
  showShareOfLink();
  history.replaceState(null, "", $("link").value);
  try { await navigator.clipboard.writeText($("link").value); say("The link is copied."); } catch { $("link").select(); say("Copy the link from its field."); }
}

function showGamma() { $("gamma-shown").textContent = percent(Number($("gamma").value)); }

/** @param {FileList | File[] | null | undefined} files */
function take(files) {
  const every = [...(files ?? [])];
  if (every.length > 1) runFolder(every, file => use(file)).catch(fail);
  else if (every.length) use(every[0]).catch(fail);
}

function watch() {
  $("file").addEventListener("change", () => { take($("file").files); $("file").value = ""; });
  $("files").addEventListener("change", () => { runFolder([...$("files").files], file => use(file)).catch(fail); $("files").value = ""; });
  $("directory").addEventListener("change", () => { runFolder([...$("directory").files], file => use(file)).catch(fail); $("directory").value = ""; });
  addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
  addEventListener("drop", event => { event.preventDefault(); $("drop").classList.remove("over"); take(event.dataTransfer?.files); });
  addEventListener("paste", event => take(event.clipboardData?.files));
  $("settings").addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); explain().catch(fail); });
  $("cancel").addEventListener("click", stop);
  $("gamma").addEventListener("input", () => { showGamma(); redraw(); });
  $("model").addEventListener("change", async () => { chooseModel(); await loadClasses(); if (state.file) await use(state.file, false); });
  $("occlusion").addEventListener("change", () => { if (state.image) soon(); });
  $("settings").addEventListener("change", showShareOfLink);
  $("slider").addEventListener("input", slid);
  $("view").addEventListener("change", redraw);
  $("whole-part").addEventListener("click", back);
  $("nothing").addEventListener("click", () => fill(0));
  $("everything").addEventListener("click", () => fill(1));
  $("enough").addEventListener("click", askEverywhere);
  $("share-link").addEventListener("click", copyLink);
  watchBrush();
  watchTools();
}

watch();
start().catch(fail);
