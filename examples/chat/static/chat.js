// The page's side of the chat. What the server calls things is in room.py.

import { Connection } from "./connection.js";

const find = (id) => document.getElementById(id);
const log = find("log");
const messages = find("messages");
const waiting = find("waiting");
const composer = find("composer");
const text = find("text");

const TEXT_MOST = Number(document.body.dataset.textMost);
const ITEMS_MOST = 500;
const TYPING_EVERY = 2_000;
const TYPING_LASTS = 4_000;
const GROUP_WITHIN = 5 * 60_000;

// What a reload of this window has to keep; another window is another person.
const kept = {
  get: (key, otherwise) => JSON.parse(sessionStorage.getItem(`chat.${key}`)) ?? otherwise,
  set: (key, value) => sessionStorage.setItem(`chat.${key}`, JSON.stringify(value)),
};

let name = kept.get("name", "");
// By this the server knows the page when it comes again, so it must stay a secret.
let session = randomToken();
// Messages that the server has not confirmed: key to text.
const unsent = new Map(kept.get("unsent", []));
// Keys of the messages that were written in this window.
const mine = new Set(kept.get("mine", []));
// Keys of the messages that are shown: one may come twice, since a page that lost the answer sends
// it again.
const shown = new Set();
// The history's id of the last message, after which it goes on when the connection is back.
let lastId = null;
// What was shown before that.
let lastItem = null;
let lastShown = { day: "", author: null, time: 0 };
let unseen = 0;

function randomToken() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The connection.

const connection = new Connection("chat", JSON.stringify({ type: "ping" }));
let joined = false;
let countdown = null;

connection.onopen = () => {
  lastItem = messages.lastElementChild;
  // The history comes before the welcome. Everything at once would be read out otherwise.
  log.setAttribute("aria-live", "off");
  messages.classList.remove("live");
  ask({ type: "join", name, session, since: lastId });
};
connection.onmessage = (data) => {
  const event = JSON.parse(data);
  events[event.type]?.(event);
};
connection.onlost = (seconds) => {
  lose(`Connection lost. Again in ${Math.ceil(seconds)} s.`);
  countdown = setInterval(() => {
    seconds -= 1;
    find("lost-words").textContent = seconds > 0
      ? `Connection lost. Again in ${Math.ceil(seconds)} s.` : "Connection lost. Trying again…";
  }, 1000);
};
connection.onended = (reason) => lose(`The server has ended the connection: ${reason}.`);

function ask(request) {
  return connection.send(JSON.stringify(request));
}

function lose(words) {
  joined = false;
  showConnection("lost", "Not connected");
  find("lost-words").textContent = words;
}

function showConnection(state, words) {
  clearInterval(countdown);
  find("chat").dataset.state = state;
  find("state").textContent = words;
  find("lost").hidden = state !== "lost";
  for (const item of waiting.children) showWaiting(item);
}

find("retry").onclick = () => {
  connection.open();
  text.focus();
};

// What the server says.

const events = {
  welcome(event) {
    joined = true;
    showConnection("connected", "Connected");
    const renamed = event.name !== name && event.name !== myName;
    showPeople(event.people, event.name);
    if (!event.complete) lastItem?.after(note("Some messages in between may be missing."));
    if (renamed) append(note(`That name is taken, so here you are ${event.name}.`));
    for (const [key, words] of unsent) ask({ type: "say", text: words, key });
    toEnd();
    setTimeout(() => {
      log.setAttribute("aria-live", "polite");
      messages.classList.add("live");
    });
  },

  joined(event) {
    showPeople(event.people);
    append(note(`${event.name} joined`, event.time));
  },

  left(event) {
    showPeople(event.people);
    stopTyping(event.name);
    append(note(`${event.name} left`, event.time));
  },

  people: (event) => showPeople(event.people),
  message: showMessage,
  typing: ({ name: who }) => startTyping(who),

  error(event) {
    if (unsent.has(event.key)) {
      restoreText(unsent.get(event.key));
      forgetUnsent(event.key);
    }
    if (joined) append(note(event.text));
    else leave(event.text);
  },
};

// Messages.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function timeOf(milliseconds) {
  const made = element("time", "", clock.format(milliseconds));
  made.dateTime = new Date(milliseconds).toISOString();
  return made;
}

function note(words, time) {
  const item = element("li", "note", element("bdi", "", words));
  if (time) item.append(" · ", timeOf(time));
  lastShown.author = null;
  return item;
}

const HUES = 12;
const hues = new Map();

// A name has a colour of its own as long as there are some that nobody has.
function hue(who) {
  if (!hues.has(who)) {
    let step = 7;
    for (const letter of who) step = (step * 31 + letter.codePointAt(0)) % 9973;
    const taken = new Set(hues.values());
    while (taken.size < HUES && taken.has(step % HUES)) step += 5;
    hues.set(who, step % HUES);
  }
  return (hues.get(who) * 360) / HUES;
}

function avatar(who) {
  const words = who.split(/\s+/).filter((word) => /^\p{L}/u.test(word));
  const letters = words.length > 1 ? [words[0], words.at(-1)].map((word) => [...word][0]) : [...who].slice(0, 2);
  const made = element("span", "avatar", letters.join("").toUpperCase());
  made.style.setProperty("--hue", hue(who));
  made.setAttribute("aria-hidden", "true");
  return made;
}

function bubble(author, isOwn, isFirst, words, mark) {
  const who = element("bdi", isOwn || !isFirst ? "author unseen" : "author", isOwn ? "You" : author);
  who.style.setProperty("--hue", hue(author));
  const box = element("div", "bubble", words, mark);
  box.dir = "auto";
  const item = element("li", "message", element("div", "", who, box));
  if (!isOwn) item.prepend(avatar(author));
  item.classList.toggle("own", isOwn);
  item.classList.toggle("first", isFirst);
  return item;
}

function showMessage(message) {
  forgetUnsent(message.key);
  lastId = message.id;
  if (shown.has(message.key)) return;
  shown.add(message.key);
  stopTyping(message.name);
  const day = calendar.format(message.time);
  if (day !== lastShown.day) {
    append(element("li", "day", day === calendar.format(Date.now()) ? "Today" : day));
    lastShown.author = null;
  }
  const isOwn = mine.has(message.key);
  const isFirst = lastShown.author !== message.name || message.time - lastShown.time > GROUP_WITHIN;
  append(bubble(message.name, isOwn, isFirst, message.text, timeOf(message.time)), isOwn);
  lastShown = { day, author: message.name, time: message.time };
  if (document.hidden) {
    unseen += 1;
    document.title = `(${unseen}) Chat`;
  }
}

// Whether the reader is at the end, and so wants to stay there.
let following = true;

function append(item, mustSee = false) {
  messages.append(item);
  while (messages.children.length > ITEMS_MOST) messages.firstElementChild.remove();
  if (following || mustSee) toEnd();
  else find("to-end").hidden = false;
}

function toEnd() {
  log.scrollTop = log.scrollHeight;
}

log.onscroll = () => {
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  if (following) find("to-end").hidden = true;
};
new ResizeObserver(() => following && toEnd()).observe(log);
find("to-end").onclick = () => {
  toEnd();
  text.focus();
};
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unseen = 0;
  document.title = "Chat";
});

// Messages on their way: shown at once, and kept until the server has them.

function keepUnsent() {
  kept.set("unsent", [...unsent]);
  kept.set("mine", [...mine].slice(-ITEMS_MOST));
}

function addUnsent(key, words) {
  unsent.set(key, words);
  mine.add(key);
  keepUnsent();
  showUnsent(key, words);
}

function showUnsent(key, words) {
  const isFirst = waiting.childElementCount === 0 && lastShown.author !== myName;
  const item = bubble(name, true, isFirst, words, element("time", ""));
  item.dataset.key = key;
  showWaiting(item);
  waiting.append(item);
  toEnd();
}

function showWaiting(item) {
  item.querySelector("time").textContent = joined
    ? clock.format(Date.now()) : "waiting for the connection";
}

function forgetUnsent(key) {
  if (!unsent.delete(key)) return;
  waiting.querySelector(`[data-key="${key}"]`)?.remove();
  keepUnsent();
}

// Writing.

function showLimit() {
  const left = TEXT_MOST - [...text.value.trim()].length;
  const over = left < 0;
  find("limit").textContent = over
    ? `${-left} ${left === -1 ? "character" : "characters"} too many`
    : left <= TEXT_MOST / 10 ? `${left} left` : "";
  find("limit").classList.toggle("over", over);
  text.setAttribute("aria-invalid", over);
  find("send").disabled = over || text.value.trim() === "";
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + text.offsetHeight - text.clientHeight}px`;
}

function setText(words) {
  text.value = words;
  kept.set("draft", words);
  showLimit();
}

function restoreText(words) {
  setText([words, text.value].filter(Boolean).join("\n"));
}

let typingTold = 0;

text.oninput = () => {
  setText(text.value);
  if (joined && text.value.trim() && Date.now() - typingTold > TYPING_EVERY) {
    typingTold = Date.now();
    connection.send(JSON.stringify({ type: "typing" }), false);
  }
};

text.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
};

composer.onsubmit = (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (!words || [...words].length > TEXT_MOST) return;
  const key = randomToken();
  addUnsent(key, words);
  if (joined) ask({ type: "say", text: words, key });
  setText("");
  typingTold = 0;
  text.focus();
};

// Who is here, and who is writing.

let myName = "";
const typists = new Map();

function showPeople(people, me = myName) {
  myName = me;
  find("names").replaceChildren(...people.map((who) => {
    const item = element("li", "", avatar(who), element("bdi", "", who));
    if (who === me) item.append(element("small", "", "you"));
    return item;
  }));
  find("faces").replaceChildren(...people.slice(0, 3).map(avatar));
  find("count").textContent = `${people.length} here`;
}

function startTyping(who) {
  clearTimeout(typists.get(who));
  typists.set(who, setTimeout(() => stopTyping(who), TYPING_LASTS));
  showTyping();
}

function stopTyping(who) {
  clearTimeout(typists.get(who));
  typists.delete(who);
  showTyping();
}

function showTyping() {
  const names = [...typists.keys()];
  find("typing").textContent = names.length > 2 ? "Several people are writing…"
    : names.length === 2 ? `${names[0]} and ${names[1]} are writing…`
      : names.length === 1 ? `${names[0]} is writing…` : "";
}

// Coming and going.

function enter(wanted) {
  name = wanted;
  kept.set("name", name);
  localStorage.setItem("chat.name", name);
  find("door").hidden = true;
  find("chat").hidden = false;
  setText(kept.get("draft", ""));
  text.focus();
  showConnection("connecting", "Connecting…");
  connection.open();
}

function leave(trouble = "") {
  connection.close();
  joined = false;
  name = "";
  kept.set("name", "");
  session = randomToken();
  find("chat").hidden = true;
  find("door").hidden = false;
  find("name").value ||= localStorage.getItem("chat.name") ?? "";
  find("name-trouble").textContent = trouble;
  find("name").setAttribute("aria-invalid", trouble !== "");
  find("name").select();
  find("name").focus();
}

find("join").onsubmit = (event) => {
  event.preventDefault();
  const wanted = find("name").value.trim();
  if (wanted) enter(wanted);
  else leave("Please type a name.");
};

function closePeople() {
  if (find("people").matches(":popover-open")) find("people").hidePopover();
}

find("leave").onclick = () => {
  closePeople();
  leave();
};
matchMedia("(max-width: 720px)").onchange = closePeople;

for (const [key, words] of unsent) showUnsent(key, words);
if (name) enter(name);
else leave();
