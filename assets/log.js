"use strict";
// The output on a deployment's screen: follows it, shows or hides times, and leads to lines. Without this script everything
// can be read by links.
(() => {
  const log = document.getElementById("log") || document.getElementById("log-part");
  const two = (n) => String(n).padStart(2, "0");
  const local = (root) => {
    for (const time of root.querySelectorAll("time.t")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      time.textContent = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${Math.floor(at.getMilliseconds() / 100)}`;
    }
  };
  for (const one of document.querySelectorAll(".log")) local(one);
  for (const it of document.querySelectorAll(".by-script")) it.hidden = false;
  for (const it of document.querySelectorAll(".without-script")) it.hidden = true;

  // ---- Times. ----
  const times = document.getElementById("log-times");
  times?.addEventListener("change", () => {
    for (const one of document.querySelectorAll(".log")) one.classList.toggle("no-times", !times.checked);
  });
  if (!log) return;

  // ---- A link to a line. The address then says which one, so that it can be copied. ----
  const page = location.pathname;
  const mark = (row) => {
    for (const old of log.querySelectorAll(".here")) old.classList.remove("here");
    row.classList.add("here");
    row.closest("details")?.setAttribute("open", "");
  };
  log.addEventListener("click", (event) => {
    const link = event.target.closest("a.n");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    history.replaceState(null, "", link.getAttribute("href"));
    mark(link.closest(".l"));
    hold();
  });
  const lead = () => {
    const wanted = /^#(L[1-9][0-9]*(\.[1-9][0-9]*)?)$/.exec(location.hash);
    if (!wanted) return false;
    const row = document.getElementById(wanted[1]);
    if (row) {
      mark(row);
      row.scrollIntoView({ block: "center" });
    } else if (new URLSearchParams(location.search).get("line") !== wanted[1].slice(1)) {
      location.replace(`${page}?line=${wanted[1].slice(1)}${location.hash}`);
    }
    return true;
  };

  // ---- Following: the last lines only are kept on the screen, and what comes at once is added a part for each picture. ----
  const LINES = 2000, AT_ONCE = 250;
  const follow = document.getElementById("log-follow");
  const earlier = document.getElementById("log-earlier");
  const parser = document.createElement("template");
  const more = document.createElement("button");
  more.type = "button";
  more.className = "log-more";
  more.hidden = true;
  log.after(more);
  let pending = [], dropped = 0, isDrawing = false, count = log.querySelectorAll(".l").length, isOurs = false;

  const toEnd = () => { isOurs = true; log.scrollTop = log.scrollHeight; };
  const isFollowing = () => follow?.checked;
  const tellMore = () => {
    const lines = pending.filter((it) => it.classList.contains("l")).length + dropped;
    more.hidden = isFollowing() || lines === 0;
    const text = `${lines.toLocaleString("en")} new line${lines === 1 ? "" : "s"} ↓`;
    if (!more.hidden && more.textContent !== text) more.textContent = text;
  };
  const hold = () => {
    if (follow?.checked) follow.checked = false;
    tellMore();
  };
  const last = () => {
    const parts = log.querySelectorAll(":scope > .part");
    if (parts.length) return parts[parts.length - 1];
    const part = document.createElement("section");
    part.className = "part";
    log.querySelector(".log-none")?.remove();
    log.append(part);
    return part;
  };
  const cut = () => {
    let first = null;
    while (count > LINES) {
      const part = log.firstElementChild;
      const rows = part ? part.querySelectorAll(".l") : [];
      if (!part || (rows.length <= count - LINES && part.nextElementSibling)) {
        if (!part) break;
        count -= rows.length;
        part.remove();
        continue;
      }
      // The heading of a phase stays as long as any of its lines does.
      for (const row of [...rows].filter((row) => row.tagName !== "SUMMARY").slice(0, count - LINES)) {
        row.remove();
        count -= 1;
      }
      break;
    }
    first = [...log.querySelectorAll(".l[id]")].find((row) => row.tagName !== "SUMMARY");
    if (!earlier || !first) return;
    earlier.hidden = false;
    const link = earlier.querySelector("a");
    link.href = `${page}?before=${first.id.slice(1)}#log-end`;
    earlier.querySelector("span").textContent = ` The last ${LINES.toLocaleString("en")} lines are shown.`;
  };
  const draw = () => {
    isDrawing = false;
    if (!isFollowing() || pending.length === 0) return;
    if (dropped > 0) {
      const gap = document.createElement("div");
      gap.className = "l cut";
      gap.append(document.createElement("span"), document.createElement("span"), document.createElement("span"));
      gap.lastChild.textContent = `… ${dropped.toLocaleString("en")} lines came meanwhile and are not shown here; “Earlier lines” has them`;
      last().append(gap);
      dropped = 0;
    }
    for (const it of pending.splice(0, AT_ONCE)) {
      local(it);
      if (it.classList.contains("part")) log.append(it); else last().append(it);
      count += it.classList.contains("l") ? 1 : it.querySelectorAll(".l").length;
    }
    if (count > LINES) cut();
    toEnd();
    if (pending.length) plan();
  };
  const plan = () => {
    if (isDrawing) return;
    isDrawing = true;
    requestAnimationFrame(draw);
  };
  if (log.id === "log") {
    document.addEventListener("append", (event) => {
      const data = event.detail, end = data.indexOf("\n");
      if (data.slice(0, end) !== "log") return;
      parser.innerHTML = data.slice(end + 1);
      for (const it of [...parser.content.children]) {
        // A part is taken to pieces: its heading begins it, and its rows follow one by one.
        if (it.classList.contains("part")) {
          const rows = [...it.children].filter((row) => row.tagName !== "SUMMARY");
          for (const row of rows) row.remove();
          pending.push(it, ...rows);
        } else {
          pending.push(it);
        }
      }
      while (pending.length > LINES) dropped += pending.shift().classList.contains("l") ? 1 : 0;
      if (isFollowing()) plan(); else tellMore();
    });
    follow?.addEventListener("change", () => { tellMore(); if (follow.checked) { toEnd(); plan(); } });
    more.addEventListener("click", () => { follow.checked = true; tellMore(); toEnd(); plan(); });
    // Who scrolls up reads; who comes back to the end follows again.
    let was = 0;
    log.addEventListener("scroll", () => {
      const isUp = log.scrollTop < was;
      was = log.scrollTop;
      if (isOurs) { isOurs = false; return; }
      const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
      if (isUp && !isAtEnd) hold();
    }, { passive: true });
  }
  // How it ended is what people come for.
  if (!lead() && (isFollowing() || (log.id === "log" && !location.search))) toEnd();
  addEventListener("hashchange", lead);
})();
