// A WebSocket that comes back by itself after an outage; the pages of all examples use it.

// Milliseconds.
const ANSWER_WITHIN = 10_000;
const PING_EVERY = 25_000;
const FIRST_DELAY = 500;
const LONGEST_DELAY = 10_000;
const STEADY_AFTER = 2_000;

// After these close codes another attempt would end as this one did: the server has said all (1000),
// does not take what this page sends or who it is (RFC 6455 section 7.4.1), or has a code of its own.
function isFinal(code) {
  return [1000, 1002, 1003, 1007, 1008, 1009, 1010].includes(code) || code >= 3000;
}

export class Connection {
  // For the page to replace.
  onopen = () => {};
  onmessage = (data) => {};
  // Out of order; another attempt comes after so many seconds.
  onlost = (seconds) => {};
  // Ended by the server, for good.
  onended = (reason) => {};

  #address;
  #ping;
  #socket = null;
  #attempts = 0;
  #answerTimer = null;
  #retryTimer = null;
  #steadyTimer = null;

  // A ping is what the server answers at any time; browsers can not send those of the protocol.
  constructor(path, ping = null) {
    this.#address = new URL(path, location.href.replace(/^http/, "ws"));
    this.#ping = ping;
    setInterval(() => this.#sendPing(), PING_EVERY);
    // The network may have gone and come while the page slept.
    addEventListener("online", () => this.#wake());
    document.addEventListener("visibilitychange", () => this.#wake());
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  open() {
    if (this.#socket) return;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    const socket = new WebSocket(this.#address);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#expectAnswer();
    socket.onopen = () => {
      this.#answered();
      // One that ends at once is no success: then the attempts go on to be rarer.
      this.#steadyTimer = setTimeout(() => { this.#attempts = 0; }, STEADY_AFTER);
      this.onopen();
    };
    socket.onmessage = ({ data }) => {
      this.#answered();
      this.onmessage(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (isFinal(code)) this.#end(reason || `code ${code}`);
      else this.#retryLater();
    };
  }

  close() {
    this.#drop();
    this.#attempts = 0;
  }

  // Tells whether it was sent; if not, it is for the page to keep it or to say so.
  send(message, isAnswered = true) {
    if (!this.isOpen) return false;
    this.#socket.send(message);
    if (isAnswered) this.#expectAnswer();
    return true;
  }

  // Without an answer the connection is dead, even if the browser can not know yet.
  #expectAnswer() {
    this.#answerTimer ??= setTimeout(() => this.#retryLater(), ANSWER_WITHIN);
  }

  #answered() {
    clearTimeout(this.#answerTimer);
    this.#answerTimer = null;
  }

  #drop() {
    this.#answered();
    clearTimeout(this.#steadyTimer);
    clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #end(reason) {
    this.#drop();
    this.onended(reason);
  }

  #retryLater() {
    this.#drop();
    // Anywhere from now to a limit that doubles, so that not all pages come back at one moment.
    const delay = Math.random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#attempts);
    this.#attempts += 1;
    this.#retryTimer = setTimeout(() => this.open(), delay);
    this.onlost(delay / 1000);
  }

  #sendPing() {
    if (this.#ping) this.send(this.#ping);
  }

  #wake() {
    if (document.hidden) return;
    if (this.isOpen) this.#sendPing();
    else if (this.#retryTimer !== null) this.open();
  }
}
