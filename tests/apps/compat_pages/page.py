"""The page of each of these apps: a form and a log for each of its sockets."""

from __future__ import annotations

from flask import render_template_string

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Sockets</title>
{% for label, path in sockets.items() %}
<section aria-label="{{ label }}" data-path="{{ path }}">
  <form>
    <input aria-label="Message" autocomplete="off">
    <button>Send</button>
    <button type="button">Leave</button>
  </form>
  <output>connecting</output>
  <ol></ol>
</section>
{% endfor %}
<script>
  for (const section of document.querySelectorAll("section")) {
    const find = (selector) => section.querySelector(selector);
    const origin = location.origin.replace(/^http/, "ws");
    const socket = new WebSocket(origin + section.dataset.path);
    socket.onopen = () => { find("output").value = "open"; };
    socket.onclose = ({ code }) => { find("output").value = `closed with ${code}`; };
    socket.onmessage = ({ data }) => {
      const item = document.createElement("li");
      item.textContent = typeof data === "string" ? data : "no text";
      find("ol").append(item);
    };
    find("form").onsubmit = (event) => {
      event.preventDefault();
      socket.send(find("input").value);
      find("form").reset();
    };
    find("[type=button]").onclick = () => socket.close();
  }
</script>
"""


def page(**sockets: str) -> str:
    """Make the page.

    :param sockets: the path of each.
    """
    return render_template_string(_PAGE, sockets=sockets)
