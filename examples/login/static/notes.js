// The page's side of the notes. What the server takes and tells is in login.py.

import { Connection } from "./connection.js";

const find = (id) => document.getElementById(id);

const connection = new Connection("notes", "");
connection.onmessage = (data) => {
  const { name, windows, notes } = JSON.parse(data);
  find("title").textContent = `Notes of ${name}`;
  show("connected", windows === 1 ? "Connected, in this window only" : `Connected, in ${windows} windows`);
  find("notes").replaceChildren(...notes.reverse().map((text) => {
    const item = document.createElement("li");
    item.dir = "auto";
    item.textContent = text;
    return item;
  }));
};
connection.onlost = () => {
  lose("The connection is lost; the page keeps trying.");
  leaveIfLoggedOut();
};
connection.onended = (reason) => {
  lose(`${reason}.`);
  find("again").hidden = false;
  find("retry").hidden = true;
  find("notes").replaceChildren();
};

// A browser does not say that a handshake was answered with 401; the page's own address tells.
async function leaveIfLoggedOut() {
  const answer = await fetch(location, { method: "HEAD", redirect: "manual" }).catch(() => null);
  if (answer?.type === "opaqueredirect") location.reload();
}

function lose(words) {
  find("lost-words").textContent = words;
  show("lost", "Not connected");
}

function show(state, words) {
  find("page").dataset.state = state;
  find("state").textContent = words;
  find("lost").hidden = state !== "lost";
  find("send").disabled = state !== "connected";
}

find("retry").onclick = () => connection.open();

find("write").onsubmit = (event) => {
  event.preventDefault();
  const text = find("text").value.trim();
  // What was not sent stays where it is.
  if (text && connection.send(text)) find("text").value = "";
};

connection.open();
