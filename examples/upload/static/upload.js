// The page's side of the upload. What the server calls things is in upload.py.

import { Connection } from "./connection.js";
import { Sha256 } from "./sha256.js";

const find = (id) => document.getElementById(id);

const PIECE = Number(document.body.dataset.piece);
// So much may be on its way, or the browser would take whole files into its memory.
const AHEAD_MOST = 8 * PIECE;

const connection = new Connection("upload", JSON.stringify({ type: "ping" }));
const files = [];
// The one that is being sent.
let current = null;

connection.onopen = () => {
  show("connected", "Connected");
  begin();
};
connection.onmessage = (data) => {
  const event = JSON.parse(data);
  if (current) events[event.type]?.(event);
};
connection.onlost = () => lose("The connection is lost; the page keeps trying.");
connection.onended = (reason) => lose(`The server has ended the connection: ${reason}.`);

function ask(request) {
  return connection.send(JSON.stringify(request));
}

function lose(words) {
  // The server has dropped what it had of it.
  if (current) change(current, current.isGivenUp ? "cancelled" : "waiting");
  current = null;
  find("lost-words").textContent = words;
  show("lost", "Not connected");
}

function show(state, words) {
  find("page").dataset.state = state;
  find("state").textContent = words;
  find("lost").hidden = state !== "lost";
}

find("retry").onclick = () => connection.open();

// What the server says of the current file.

const events = {
  ready: () => sendPieces(current),

  written({ bytes }) {
    current.written += bytes;
    change(current, current.state);
    sendPieces(current);
  },

  done({ name, sha256 }) {
    const here = current.hash.hex();
    for (const [place, hash] of [["here", here], ["there", sha256]]) {
      current.item.querySelector(`.${place}`).textContent = hash;
    }
    current.item.querySelector("dl").hidden = false;
    current.item.title = `On the server: ${name}`;
    if (here === sha256) change(current, "done");
    else change(current, "failed", "What is on the server is not what is here.");
    end();
  },

  refused({ text }) {
    change(current, "failed", text);
    end();
  },

  cancelled() {
    if (current.state === "sending") change(current, "cancelled");
    current.isGivenUp = false;
    end();
  },
};

// One file after the other.

function begin() {
  current ??= files.find((each) => each.state === "waiting") ?? null;
  if (current?.state !== "waiting") return;
  Object.assign(current, { sent: 0, written: 0, hash: new Sha256(), isReading: false });
  if (ask({ type: "begin", name: current.file.name, size: current.file.size })) change(current, "sending");
  else current = null;
}

function end() {
  // After it has asked to cancel, the next begins when that is answered.
  if (current.isGivenUp) return;
  current = null;
  begin();
}

async function sendPieces(each) {
  const { file, hash } = each;
  // Several answers may come while one piece is read.
  if (each.isReading) return;
  each.isReading = true;
  // Another hash is another attempt, after the connection was lost.
  const goesOn = () => each === current && each.hash === hash && each.state === "sending" && !each.isGivenUp;
  try {
    while (goesOn() && each.sent < file.size && each.sent - each.written < AHEAD_MOST) {
      const piece = new Uint8Array(await file.slice(each.sent, each.sent + PIECE).arrayBuffer());
      if (!goesOn()) return;
      hash.update(piece);
      connection.send(piece);
      each.sent += piece.length;
    }
  } catch {
    if (goesOn()) giveUp(each, "failed", "The file can not be read; it may have changed.");
  } finally {
    if (each.hash === hash) each.isReading = false;
  }
}

function giveUp(each, state, trouble = "") {
  if (each === current) {
    each.isGivenUp = true;
    ask({ type: "cancel" });
  }
  if (each !== current || state === "failed") change(each, state, trouble);
}

// The list.

function change(each, state, trouble = "") {
  const { item, file } = each;
  each.state = state;
  item.dataset.state = state;
  item.querySelector(".words").textContent = {
    waiting: `${size(file.size)}, waiting`,
    sending: `${size(each.written)} of ${size(file.size)}`,
    done: `${size(file.size)}, arrived`,
    cancelled: "Cancelled",
    failed: "Not uploaded",
  }[state];
  // An empty file is all there from the beginning.
  item.querySelector("progress").value = state === "done" ? 1 : each.written / (file.size || 1);
  item.querySelector(".trouble").textContent = trouble;
  item.querySelector(".cancel").hidden = state !== "waiting" && state !== "sending";
  const arrived = files.filter((one) => one.state === "done").length;
  find("summary").textContent = `${arrived} of ${files.length} ${files.length === 1 ? "file has" : "files have"} arrived.`;
}

function size(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(bytes, 1)) / 3));
  return new Intl.NumberFormat("en", {
    style: "unit", unit: units[power], unitDisplay: power ? "short" : "long", maximumFractionDigits: power ? 1 : 0,
  }).format(bytes / 1000 ** power);
}

function add(chosen) {
  for (const file of chosen) {
    const item = find("item").content.firstElementChild.cloneNode(true);
    const each = { file, item, state: "waiting", sent: 0, written: 0, isGivenUp: false };
    item.querySelector(".name").textContent = file.name;
    item.querySelector("progress").setAttribute("aria-label", file.name);
    const cancel = item.querySelector(".cancel");
    cancel.setAttribute("aria-label", `Cancel ${file.name}`);
    cancel.onclick = () => giveUp(each, "cancelled");
    files.push(each);
    find("list").append(item);
    change(each, "waiting");
  }
  if (connection.isOpen) begin();
}

find("files").onchange = () => {
  add(find("files").files);
  // So that the same file can be chosen again.
  find("files").value = "";
};

// The whole page takes what is dropped, or the browser would open a file that misses the field.
addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) find("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  add(event.dataTransfer.files);
});

connection.open();
