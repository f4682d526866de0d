"use strict";
// Keeps a screen live. The server renders everything: a stream sends elements, and each takes the place of the one with its
// id. Without this script every screen can be read, and every form works.
(() => {
  const live = document.body.dataset.live;
  const status = document.getElementById("live");

  // ---- Times: the server writes UTC, the reader wants local time, and what has passed goes on. ----
  const two = (n) => String(n).padStart(2, "0");
  const span = (seconds) => {
    const minutes = Math.floor(seconds / 60), hours = Math.floor(seconds / 3600), days = Math.floor(seconds / 86400);
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 600 && seconds % 60) return `${minutes} min ${seconds % 60} s`;
    if (seconds < 3600) return `${minutes} min`;
    if (seconds < 36000 && minutes % 60) return `${hours} h ${minutes % 60} min`;
    if (seconds < 172800) return `${hours} h`;
    return `${days} d`;
  };
  const local = (at, now) => {
    const time = `${two(at.getHours())}:${two(at.getMinutes())}`;
    if (at.toDateString() === now.toDateString()) return time;
    const day = at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
    return at.getFullYear() === now.getFullYear() ? `${day} ${time}` : `${day} ${at.getFullYear()} ${time}`;
  };
  const exact = (at) => `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const tell = (element, now) => {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) return;
    element.title = at.toString();
    let text;
    switch (element.dataset.as) {
      case "since": text = span(Math.max(0, Math.floor((now - at) / 1000))); break;
      case "clock": text = exact(at); break;
      case "at": text = local(at, now); break;
      default: return;
    }
    if (element.textContent !== text) element.textContent = text;
  };
  const tellTimes = (root) => {
    const now = new Date();
    for (const element of root.querySelectorAll("time[data-as]")) tell(element, now);
    // The marks of an axis.
    for (const mark of root.querySelectorAll("text[data-at]")) {
      const at = new Date(mark.dataset.at);
      mark.textContent = mark.dataset.as === "day"
        ? at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })
        : `${two(at.getHours())}:${two(at.getMinutes())}`;
    }
  };
  tellTimes(document);
  setInterval(() => {
    if (document.hidden) return;
    const now = new Date();
    for (const element of document.querySelectorAll('time[data-as="since"]')) tell(element, now);
  }, 1000);

  // ---- Keys: / goes to the search field. ----
  document.addEventListener("keydown", (event) => {
    const search = document.getElementById("search");
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && search && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    }
  });

  // ---- The screen of all projects: search as one types, and the order. ----
  const table = document.getElementById("projects");
  const search = document.getElementById("search");
  const isShown = (row) => !search || row.dataset.name.toLowerCase().includes(search.value.trim().toLowerCase());
  const order = (row) => (table.dataset.sort === "name" ? "" : row.dataset.rank.padStart(3, "0")) + "/" + row.dataset.name;
  const place = (row) => {
    row.hidden = !isShown(row);
    const key = order(row);
    const next = [...table.rows].find((other) => other !== row && order(other) > key) || null;
    if (row.parentElement !== table || row.nextElementSibling !== next) table.insertBefore(row, next);
    document.getElementById("nothing")?.remove();
  };
  if (table && search) {
    search.addEventListener("input", () => {
      for (const row of table.rows) row.hidden = !isShown(row);
    });
  }

  // ---- Rows that are new enter the table that they name, where that shows the newest ones. ----
  const enter = (row) => {
    const body = document.getElementById(row.dataset.into);
    if (!body || !("live" in body.dataset)) return;
    const next = [...body.rows].find((other) => +other.dataset.key < +row.dataset.key) || null;
    // One that is older than all that are shown stands on a later page.
    if (!next && body.rows.length) return;
    body.insertBefore(row, next);
    document.querySelector(`[data-nothing="${body.id}"]`)?.remove();
  };

  // ---- What goes on with the clock alone is asked for again now and then, while somebody looks. ----
  const REFRESH = 120000;
  const refresh = async () => {
    if (document.hidden || !document.querySelector("[data-refresh]")) return;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "error" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      patch([...page.querySelectorAll("[data-refresh]")].map((it) => it.outerHTML).join(""));
    } catch { /* The stream says that the server is gone. */ }
  };
  if (document.querySelector("[data-refresh]")) setInterval(refresh, REFRESH * (1 + Math.random() / 4));

  // ---- Patches. ----
  const parser = document.createElement("template");
  const patch = (html) => {
    parser.innerHTML = html;
    // A row must stand in a table: a parser drops it elsewhere.
    for (const fresh of [...parser.content.children].flatMap((it) => (it.tagName === "TABLE" && !it.id ? [...it.rows] : [it]))) {
      const old = document.getElementById(fresh.id);
      if (old?.isEqualNode(fresh)) continue;
      tellTimes(fresh);
      if (fresh.id === "sum" && fresh.dataset.title) document.title = `${fresh.dataset.title} · Singletrack`;
      if (fresh.dataset.screenTitle) document.title = `${fresh.dataset.screenTitle} · Singletrack`;
      if (old) {
        const open = new Set([...old.querySelectorAll("details[open][id]")].map((it) => it.id));
        const focused = old.contains(document.activeElement) ? document.activeElement : null;
        const anchor = focused && (focused.id ? `#${CSS.escape(focused.id)}` : focused.getAttribute("href") && `a[href="${CSS.escape(focused.getAttribute("href"))}"]`);
        old.replaceWith(fresh);
        for (const details of fresh.querySelectorAll("details[id]")) if (open.has(details.id)) details.open = true;
        if (anchor) fresh.querySelector(anchor)?.focus({ preventScroll: true });
      }
      if (table && fresh.tagName === "TR") place(fresh);
      if (!old && fresh.dataset.into) enter(fresh);
      delete fresh.dataset.stale;
    }
    document.dispatchEvent(new CustomEvent("patched"));
  };

  // ---- The stream. ----
  if (!live) return;
  const url = new URL(live, location.href);
  let after = url.searchParams.get("after");
  let source = null, poll = null, heardAt = 0, wait = 500, timer = null, isMuted = false, isOver = false;

  const say = (text, isLive) => {
    status.hidden = false;
    status.classList.toggle("gone", !isLive);
    if (status.textContent !== text) status.textContent = text;
  };
  const heard = (id) => {
    heardAt = Date.now();
    wait = 500;
    if (id) after = id;
    if (!isOver) say("live", true);
  };
  const handlers = {
    beat: () => {},
    patch: (data) => patch(data),
    append: (data) => document.dispatchEvent(new CustomEvent("append", { detail: data })),
    gone: (data) => document.getElementById(data)?.remove(),
    restart: () => { if (table) for (const row of table.rows) row.dataset.stale = ""; },
    current: () => { if (table) for (const row of [...table.rows]) if ("stale" in row.dataset) row.remove(); },
    // The stream has told all that there will be.
    end: () => { isOver = true; close(); say("final", true); },
    // Another version of the server has another page.
    reload: () => location.reload(),
  };
  const address = () => {
    const address = new URL(url);
    if (after) address.searchParams.set("after", after);
    return address;
  };
  const close = () => {
    clearTimeout(timer);
    source?.close();
    poll?.abort();
    source = poll = null;
    letGo?.();
  };
  const again = () => {
    close();
    if (isOver) return;
    say("reconnecting…", false);
    timer = setTimeout(open, wait + Math.random() * wait);
    wait = Math.min(wait * 2, 8000);
  };
  const stream = () => {
    heardAt = Date.now();
    source = new EventSource(address());
    for (const name of Object.keys(handlers)) {
      source.addEventListener(name, (event) => {
        heard(event.lastEventId);
        handlers[name](event.data);
      });
    }
    source.onerror = () => {
      // Whether the session ended is asked with the page itself.
      again();
      if (wait > 1500) fetch(location.href, { method: "HEAD", redirect: "manual" }).then((answer) => {
        if (answer.type === "opaqueredirect" || answer.status === 401) location.reload();
      }, () => {});
    };
  };
  // Where something in between holds a stream up, the same frames come by long-poll.
  const ask = async () => {
    poll = new AbortController();
    const from = address();
    from.searchParams.set("maxWaitSeconds", "25");
    heardAt = Date.now() + 25000;
    try {
      const answer = await fetch(from, { headers: { accept: "application/json" }, signal: poll.signal });
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      for (const frame of text.split("\n\n")) {
        const fields = { id: "", event: "", data: [] };
        for (const line of frame.split("\n")) {
          const at = line.indexOf(": ");
          const name = line.slice(0, at), value = line.slice(at + 2);
          if (name === "data") fields.data.push(value); else fields[name] = value;
        }
        if (!handlers[fields.event]) continue;
        heard(fields.id);
        handlers[fields.event](fields.data.join("\n"));
      }
      poll = null;
      if (!isOver) open();
    } catch (error) {
      if (error.name !== "AbortError") again();
    }
  };

  // A browser opens six connections to a host at most, for all tabs together. So at most four tabs hold a stream, and those
  // that nobody looks at let theirs go to one that somebody opens.
  const PLACES = 4;
  const channel = "BroadcastChannel" in window ? new BroadcastChannel("live") : null;
  let letGo = null;
  const takePlace = async () => {
    if (!navigator.locks) return true;
    for (let i = 0; i < PLACES; i++) {
      const taken = await new Promise((resolve) => {
        navigator.locks.request(`live-${i}`, { ifAvailable: true }, (lock) => {
          if (!lock) { resolve(false); return undefined; }
          return new Promise((free) => { letGo = () => { letGo = null; free(); }; resolve(true); });
        });
      });
      if (taken) return true;
    }
    return false;
  };
  let opening = false;
  const open = async () => {
    if (opening || source || poll || isOver) return;
    opening = true;
    const has = await takePlace();
    opening = false;
    if (!has) {
      say(document.hidden ? "asleep" : "waiting for another tab", false);
      if (!document.hidden) channel?.postMessage("need");
      timer = setTimeout(open, document.hidden ? 60000 : 1000);
      return;
    }
    if (isMuted) ask(); else stream();
  };
  if (channel) channel.onmessage = () => {
    if (document.hidden && (source || poll)) {
      close();
      say("asleep", false);
      timer = setTimeout(open, 60000);
    }
  };
  const look = () => {
    if (document.hidden || isOver) return;
    tellTimes(document);
    // After a sleep, what was open is dead although nothing says so.
    if ((source || poll) && Date.now() - heardAt > 15000) { wait = 500; again(); return; }
    if (!source && !poll) { clearTimeout(timer); open(); }
  };
  document.addEventListener("visibilitychange", look);
  addEventListener("online", look);
  addEventListener("pageshow", look);
  addEventListener("pagehide", close);
  // The server sends something every 5 s. A stream that is silent at its begin is one that is held up in between.
  setInterval(() => {
    if (!source || Date.now() - heardAt < 12000) return;
    isMuted = true;
    again();
  }, 1000);
  say("connecting…", false);
  open();
})();
