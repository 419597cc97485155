// Photos in, answers out. What comes from outside, names of files and of classes, is set as text, never as markup.
"use strict";

const TOP = 5; // classes shown
const AT_ONCE = 2; // requests: one photo travels or is decoded while the model works on the other
const PATIENCE = 120_000; // ms until an answer must be there
const AGAIN = 1_000; // ms until the server is asked again whether its model is loaded
const LONGEST_TURNED = 2048; // pixels of a photo that is drawn anew: several times what a model looks at
const FAILURES = {
  413: "This photo is too large for the server.",
  415: "The server takes photos, and this is none that it knows.",
  422: "This photo is damaged.",
  429: "The server has too much to do right now.",
  500: "The server failed at this photo.",
  503: "The model is still being loaded.",
  504: "The server took too long.",
};
const UNREACHED = "The server cannot be reached. Is it still running?";
const MAY_PASS = new Set([408, 429, 500, 502, 503, 504]); // what may go better a second time

const find = (id) => document.getElementById(id);
const copy = (template) => find(template).content.firstElementChild.cloneNode(true);
const megabytes = (bytes) => `${Math.round(bytes / 2 ** 20)} MB`;
const photos = (number) => `${number} photo${number === 1 ? "" : "s"}`;
const time = (ms) => (ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(1)} s`);

let largest = Infinity; // bytes that the server takes at once
let nextLook; // timer, while the model is being loaded

/** Why a photo has no answer: `message` for people, `detail` in the server's words; whether it may have one later. */
class Failure extends Error {
  constructor(message, detail = "", mayPass = false) {
    super(message);
    this.detail = detail;
    this.mayPass = mayPass;
  }
}

/** A photo on the page, and what became of it: `said` in a few words. */
class Card {
  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted photo";
    this.element = copy("card");
    this.part("h2").textContent = this.name;
    this.part("img").alt = this.name;
    this.part("img").addEventListener("error", ({ target }) => target.remove()); // no picture to a browser
    this.part("img").src = URL.createObjectURL(file);
    this.part(".again").addEventListener("click", () => {
      this.element.focus(); // the button goes
      send([this]);
    });
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  showState(text, detail = "") {
    this.part(".state").textContent = text;
    this.part(".detail").textContent = detail;
  }

  showWaiting() {
    this.element.classList.remove("failed");
    this.part(".again").hidden = true;
    this.showState("waiting for its turn");
  }

  showAnswer({ top, total, inServer, isTurned }) {
    this.part(".classes").replaceChildren(...top.map(candidate));
    this.said = `${top[0].name}, ${Math.round(100 * top[0].probability)} percent`;
    this.showState(
      `${time(total)} in all${inServer ? `, ${time(inServer)} in the server` : ""}`,
      isTurned ? "Its camera was not held upright: it was turned before it was sent." : "",
    );
  }

  showFailure(failure) {
    this.element.classList.add("failed");
    this.part(".again").hidden = !failure.mayPass;
    this.said = failure.message;
    this.showState(failure.message, failure.detail);
  }
}

/** A class as a line: its name, its probability, and that as a bar. */
function candidate({ name, probability }) {
  const line = copy("candidate");
  const percent = `${(100 * probability).toFixed(1)}%`;
  line.querySelector(".class").textContent = name;
  line.querySelector(".percent").textContent = percent;
  line.querySelector(".bar").style.width = percent;
  return line;
}

// Photos, one after the other

const waiting = []; // cards that are not sent yet
let answered = []; // cards of which nothing was said yet
let working = 0;

function take(files) {
  const cards = Array.from(files, (file) => new Card(file));
  find("answers").prepend(...cards.map((card) => card.element));
  send(cards);
}

function send(cards) {
  for (const card of cards) card.showWaiting();
  waiting.push(...cards);
  while (working < AT_ONCE && waiting.length) work();
}

async function work() {
  working += 1;
  for (let card; (card = waiting.shift()); answered.push(card)) {
    card.showState("on its way");
    try {
      card.showAnswer(await ask(card.file));
    } catch (error) {
      card.showFailure(error instanceof Failure ? error : new Failure("This page has failed.", String(error)));
    }
  }
  working -= 1;
  if (!working) announce();
}

/** For those who listen: an answer in words, or of several how many there are. */
function announce() {
  const failed = answered.filter((card) => card.element.classList.contains("failed")).length;
  find("said").textContent =
    answered.length === 1
      ? `${answered[0].name}: ${answered[0].said}`
      : `${photos(answered.length - failed)} answered${failed ? `, ${failed} not` : ""}`;
  answered = [];
  describe(); // by now it may be gone, or serve a newer checkpoint
}

// The server

/** The likeliest classes of a photo, the ms that they took, in all and in the server, and whether it was turned. */
async function ask(file) {
  if (file.size > largest)
    throw new Failure(`This photo has ${megabytes(file.size)}; the server takes ${megabytes(largest)} at most.`);
  const bytes = await file.arrayBuffer().catch(() => {
    throw new Failure("This cannot be read. Is it a folder, or gone?");
  });
  const upright = await turned(file, bytes);
  const began = performance.now();
  const [response, answer] = await post(`predict?top=${TOP}`, upright ?? bytes, upright?.type || file.type);
  const total = performance.now() - began;
  if (!response.ok)
    throw new Failure(
      FAILURES[response.status] ?? `The server does not take this photo (${response.status}).`,
      [answer.error, answer.hint].filter(Boolean).join("; "),
      MAY_PASS.has(response.status),
    );
  const inServer = Number(/dur=([\d.]+)/.exec(response.headers.get("Server-Timing"))?.[1]);
  return { top: answer.top, total, inServer, isTurned: upright !== null };
}

/** The response, and the JSON in it. */
async function post(url, body, type) {
  const headers = { "Content-Type": type || "application/octet-stream" };
  try {
    const response = await fetch(url, { method: "POST", headers, body, signal: AbortSignal.timeout(PATIENCE) });
    return [response, await response.json()];
  } catch (error) {
    if (error.name === "TimeoutError") throw new Failure("No answer came within two minutes.", "", true);
    if (error instanceof SyntaxError) throw new Failure("What the server answers is no JSON.", "", true);
    throw new Failure(UNREACHED, "", true);
  }
}

/** Shows what model this is and what the server takes, or why that is not known; asks again until it is loaded. */
async function describe() {
  let trouble = "";
  try {
    const response = await fetch("health");
    const found = await response.json();
    largest = found.max_body_bytes;
    find("largest").textContent = `, each up to ${megabytes(largest)}`;
    if (found.status === "ready") showModel(found);
    else {
      trouble = "The model is being loaded.";
      clearTimeout(nextLook);
      nextLook = setTimeout(describe, AGAIN);
    }
  } catch {
    trouble = UNREACHED;
  }
  if (find("server").textContent !== trouble) find("server").textContent = trouble; // said once
}

function showModel(found) {
  for (const name of ["model", "num_classes", "step", "runtime", "precision"])
    find(name).textContent = found[name].toLocaleString("en");
  document.title = `${found.model} · imagesprint`;
  find("facts").hidden = false;
  find("known").hidden = false;
}

/** Shows all that an answer can be. */
async function listClasses() {
  const classes = await fetch("model")
    .then(async (response) => (await response.json()).classes)
    .catch(() => null);
  find("names").textContent = classes ? classes.map(({ text }) => text).join(" · ") : UNREACHED;
}

// Cameras that were held on their side

/**
 * A photo as people see it, drawn anew, where its camera was held on its side or upside down; null of all others.
 * Models take pixels as they lie in the file, as in training, and recognise little that lies on its side.
 */
async function turned(file, bytes) {
  const noted = orientation(new DataView(bytes));
  if (noted < 2 || noted > 8) return null;
  const image = await createImageBitmap(file).catch(() => null); // turned as the camera noted
  if (!image) return null;
  const scale = Math.min(1, LONGEST_TURNED / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(image.width * scale);
  canvas.height = Math.round(image.height * scale);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
}

/** EXIF's orientation of a JPEG: 1 is upright, 2 to 8 are not; 1 of all else. */
function orientation(view) {
  try {
    if (view.getUint16(0) !== 0xffd8) return 1;
    for (let at = 2; view.getUint16(at) > 0xff00 && view.getUint16(at) !== 0xffda; at += 2 + view.getUint16(at + 2))
      if (view.getUint16(at) === 0xffe1 && view.getUint32(at + 4) === 0x45786966) return ofExif(view, at + 10);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it is cut short; what is wrong, the server says
  }
  return 1;
}

/** The same, of EXIF's data from `start` on: a TIFF header and a table of rows of twelve bytes. */
function ofExif(view, start) {
  const little = view.getUint16(start) === 0x4949;
  const table = start + view.getUint32(start + 4, little);
  for (let row = table + 2; row < table + 2 + 12 * view.getUint16(table, little); row += 12)
    if (view.getUint16(row, little) === 0x0112) return view.getUint16(row + 8, little);
  return 1;
}

// Choosing, dropping, pasting

find("files").addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = ""; // the same photo may be chosen again
});
addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
addEventListener("dragover", (event) => {
  event.preventDefault(); // or the browser would open the photo in place of this page
  document.body.classList.add("dragging");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dragging"); // out of the window
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files);
});
find("known").addEventListener("toggle", listClasses);
describe();
