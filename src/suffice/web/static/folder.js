// Several images, one after the other: a table that sorts, and opens any row.
// @ts-check
import {listen, Refused, submit, upload, pause, cancel} from "./api.js";
import {$, h, inWords, percent, table} from "../../report/parts/dom.js";
import {question} from "./state.js";

const AT_ONCE = 2;

/** @param {File[]} files @param {(file: File) => Promise<void>} open */
export async function runFolder(files, open) {
  const images = files.filter(file => file.type.startsWith("image/")).sort((a, b) => a.name.localeCompare(b.name));
  /** @type {any[][]} */
  const rows = [], waiting = images.slice();
  /** @type {Set<string>} */
  const running = new Set();
  let stopped = false;
  const asked = question();
  $("stop-folder").hidden = false;
  $("stop-folder").onclick = () => { stopped = true; running.forEach(id => cancel(id).catch(() => {})); };
  const show = () => $("table").replaceChildren(h("p", {role: "status"}, `${rows.length} of ${images.length} images${stopped ? ", stopped" : ""}.`),
    table(["Image", "Class", "Confidence", "Enough", "Part", "Seconds", "Open"], rows));
  const worker = async () => {
    for (let file = waiting.shift(); file && !stopped; file = waiting.shift()) {
      const one = file, opened = h("button", {type: "button", onclick: () => open(one)}, "open");
      try {
        const ended = await explained(file, asked, running);
        const found = ended.result;
        if (!found) { rows.push([file.name, ended.error ?? ended.state, "", "", "", "", opened]); continue; }
        rows.push([file.name, found.target_name, {text: percent(found.confidence), sort: found.confidence},
          found.verdict === "sufficient" ? {text: "yes", className: "yes"} : {text: found.verdict === "empty" ? "no pixel needed" : "no", className: "no"},
          {text: percent(found.area), sort: found.area}, {text: found.seconds.toFixed(1), sort: found.seconds}, opened]);
      } catch (error) { rows.push([file.name, inWords(error), "", "", "", "", opened]); } finally { show(); }
    }
  };
  show();
  await Promise.all(Array.from({length: AT_ONCE}, worker));
  $("stop-folder").hidden = true;
  show();
}

/** @param {File} file @param {any} asked @param {Set<string>} running */
async function explained(file, asked, running) {
  for (;;) {
    try {
      const image = await upload(file, asked.model), id = await submit({...asked, image: image.id});
      running.add(id);
      try { return await listen(id, () => {}); } finally { running.delete(id); }
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 429) throw error;
      await pause(2000);
    }
  }
}
