// A job from its start to its end: told, cancelled, and begun anew where the server was.
// @ts-check
import {cancel, Gone, listen, pause, Refused, submit, there, upload} from "./api.js";
import {$, inWords, percent, say} from "../../report/parts/dom.js";
import {state} from "./state.js";

/** The job of the form; others run beside it. @type {string | null} */
let current = null;
let unwanted = false; // whether the job that was sent was cancelled before it had an id

/** The image's id at the server. @returns {string} */
export function imageId() {
  if (!state.image) throw new Error("Choose an image first.");
  return state.image.id;
}

/** Upload the file again, as the server forgot the image. */
export async function uploadAgain() {
  if (!state.file) throw new Error("Choose an image first.");
  state.image = await upload(state.file, $("model").value);
}

/**
 * Run a job to its end. Where the server is gone the page waits for it, and asks for the job again.
 * @param {object} request @param {(happening: import("./api.js").Happening) => void} tell
 * @param {(id: string) => void} [begun]
 * @returns {Promise<import("./api.js").State>}
 */
export async function run(request, tell, begun = () => {}) {
  for (;;) {
    try {
      const id = await submit({...request, image: imageId()});
      begun(id);
      return await listened(id, tell);
    } catch (error) {
      if (error instanceof Gone) await recovered();
      else if (error instanceof Refused && error.status === 404) await uploadAgain();
      else if (error instanceof Refused && error.status === 429) {
        say("The server is busy: waiting for a free place.");
        await pause(2000);
      } else throw error;
    }
  }
}

/** @param {string} id @param {(happening: import("./api.js").Happening) => void} tell */
async function listened(id, tell) {
  for (;;) {
    try { return await listen(id, tell); } catch (error) {
      if (!(error instanceof Gone)) throw error;
      if (await recovered()) throw new Gone("The server was started again.");
    }
  }
}

/** Wait for the server; whether it is another one, which knows nothing of us. @returns {Promise<boolean>} */
async function recovered() {
  say("The server does not answer. Waiting for it…");
  const {started} = await there();
  const another = started !== state.started;
  state.started = started;
  if (another) {
    say("The server was started again. Going on with your image.");
    await uploadAgain();
  } else say("The server is there again.");
  return another;
}

/**
 * Run a job of the form: with its bar, its time and its button to cancel.
 * @param {object} request @param {(happening: import("./api.js").Happening) => void} tell
 * @returns {Promise<import("./api.js").State | null>} null where it was cancelled or failed, which is said
 */
export async function shown(request, tell) {
  const before = current;
  current = null;
  unwanted = false;
  if (before) await cancel(before).catch(() => {});
  let mine = "";
  $("running").hidden = $("cancel").hidden = false;
  $("progress").value = 0;
  $("progress-text").textContent = "Sent.";
  try {
    const ended = await run(request, happening => {
      if (mine !== current) return;
      $("progress").value = happening.share;
      $("progress-text").textContent = words(happening);
      tell(happening);
    }, id => {
      mine = current = id;
      if (unwanted) void stop();
    });
    if (mine !== current) return null;
    if (ended.state === "done") { say("Done."); return ended; }
    say(ended.state === "cancelled" ? "Cancelled." : `It failed: ${ended.error}`);
  } catch (error) {
    say(inWords(error));
  } finally {
    if (mine === current) {
      current = null;
      $("running").hidden = $("cancel").hidden = true;
    }
  }
  return null;
}

/** Cancel the job of the form. */
export async function stop() {
  unwanted = true;  // also where the server has not yet said which job it is
  if (current) await cancel(current).catch(error => say(error.message));
}

/** @param {import("./api.js").Happening} happening */
function words(happening) {
  if (happening.state === "queued") return `Waiting: ${happening.ahead} before it.`;
  const left = happening.seconds_left === null ? "" : `, about ${Math.ceil(happening.seconds_left)} s left`;
  const area = happening.area === null ? "" : `; ${percent(happening.area)} of the image is enough so far`;
  const stage = happening.stage ? `${happening.stage}: ` : "";
  return `${stage}${happening.forward_passes} images asked, ${happening.seconds.toFixed(1)} s${left}${area}.`;
}
