// Keeps the page true while somebody looks. Without it everything is there, and stands still.
//
// The server's list for this address is asked for every few seconds, and the stream tells each change at once. Both
// lead to `wanted`; the table follows, but for its order while the pointer or the focus is in it.
"use strict";

(() => {
  const PAGE = 200;
  const RANKS = ["offline", "late", "unknown", "online", "never"];
  // The stream says something every 15 s.
  const SILENCE = 25_000;
  // The database is looked at every second.
  const OLD = 20_000;
  const REFRESH = 10_000;
  const PATIENCE = 8_000;
  const PAUSES = [1, 2, 4, 8, 15, 30];
  const SOON = 14 * 86_400;

  const $ = (id) => document.getElementById(id);
  const body = document.querySelector("tbody");
  const table = document.querySelector("table");
  const view = new URLSearchParams(location.search);
  const states = (view.get("state") || "").split(",").filter(Boolean);
  const part = $("q").defaultValue.toLowerCase();
  const sort = view.get("sort") || "trouble";
  const isFirst = !view.has("after");

  /** The people of this page in their order. null: not asked yet. */
  let wanted = null;
  let hasNext = false;
  /** Rows of people that the list lacks now, as they were last. */
  const gone = new Map();
  let counts = null;
  const servers = new Map();
  let position = "";
  /** The server's clock less the browser's, in milliseconds. */
  let ahead = Date.parse(document.body.dataset.now) - Date.now();
  /** The server's last good look at the database. */
  let asOf = Date.now();

  // --- words -------------------------------------------------------------------------------------

  const now = () => Date.now() + ahead;
  const put = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const number = (count) => count.toLocaleString("en");

  /** Two units at the most, as page.rs says it too. */
  function age(seconds) {
    const [minutes, hours, days] = [60, 3600, 86_400].map((unit) => Math.floor(seconds / unit));
    if (seconds < 60) return `${seconds}s`;
    if (seconds < 600) return `${minutes}m ${seconds % 60}s`;
    if (hours < 1) return `${minutes}m`;
    if (days < 1) return `${hours}h ${minutes % 60}m`;
    return days < 10 ? `${days}d ${hours % 24}h` : `${days}d`;
  }

  function clock(at) {
    const [time, today] = [new Date(at), new Date()];
    const isToday = time.toDateString() === today.toDateString();
    return isToday ? time.toLocaleTimeString() : time.toLocaleString();
  }

  /** A time in relation to now. */
  function say(time) {
    const at = Date.parse(time.dateTime);
    if (time.dataset.says === "clock") return put(time, clock(at));
    const seconds = Math.floor(at / 1000) - Math.floor(now() / 1000);
    const passed = age(Math.abs(seconds));
    if (time.dataset.says === "since") return put(time, passed);
    const isAhead = seconds > 0 && time.dataset.says !== "seen";
    put(time, isAhead ? `in ${passed}` : `${passed} ago`);
  }

  // --- rows --------------------------------------------------------------------------------------

  function setTime(cell, text) {
    const time = cell.firstElementChild;
    if (!text) {
      time.removeAttribute("datetime");
      time.removeAttribute("title");
      put(time, "–");
    } else {
      if (time.dateTime !== text) {
        time.dateTime = text;
        time.title = new Date(text).toLocaleString();
      }
      say(time);
    }
  }

  function fill(row, person) {
    const [state, name, since, seen, due, address, ends] = row.cells;
    if (row.dataset.state !== person.state) {
      row.classList.toggle("changed", row.dataset.state !== "");
      row.dataset.state = person.state;
      put(state.lastElementChild, person.state);
    }
    row.dataset.email = person.email;
    put(name.firstElementChild, person.email);
    name.lastElementChild.hidden = !person.disabled;
    row.classList.toggle("off", person.disabled);
    setTime(since, person.since);
    setTime(seen, person.last_seen);
    setTime(due, person.due);
    put(address.firstElementChild, person.ip ?? "–");
    const end = person.certificate?.not_after;
    setTime(ends, end);
    ends.classList.toggle("soon", Boolean(end) && (Date.parse(end) - now()) / 1000 < SOON);
  }

  function newRow(person) {
    const row = $("row").content.firstElementChild.cloneNode(true);
    fill(row, person);
    return row;
  }

  // --- the order ---------------------------------------------------------------------------------

  function matches(person) {
    const isWanted = states.length === 0 || states.includes(person.disabled ? "disabled" : person.state);
    return isWanted && person.email.includes(part);
  }

  const less = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

  /** As the server sorts. */
  function compare(a, b) {
    let order = Number(a.disabled) - Number(b.disabled);
    if (sort === "trouble") {
      order ||= RANKS.indexOf(a.state) - RANKS.indexOf(b.state);
      order ||= less(b.since ?? "", a.since ?? "");
    } else if (sort === "seen") {
      order ||= less(BigInt(b.last_seen_ns ?? 0), BigInt(a.last_seen_ns ?? 0));
    }
    return order || less(a.email, b.email);
  }

  /** Puts somebody who changed where the server would. People of other pages only count. */
  function place(email, person) {
    const at = wanted.findIndex((other) => other.email === email);
    if (at >= 0) gone.set(email, person ?? wanted.splice(at, 1)[0]);
    if (at >= 0 && person) wanted.splice(at, 1);
    if (!person || !matches(person)) return;
    if (!isFirst) {
      if (at >= 0) wanted.splice(at, 0, person);
    } else {
      const before = wanted.findIndex((other) => compare(person, other) < 0);
      if (before >= 0) wanted.splice(before, 0, person);
      else if (!hasNext) wanted.push(person);
    }
    if (wanted.length > PAGE) {
      const last = wanted.pop();
      gone.set(last.email, last);
      hasNext = true;
    }
  }

  /** How many rows would have to move: all but the longest part whose order stays. */
  function movers() {
    const places = new Map([...body.rows].map((row, at) => [row.dataset.email, at]));
    const olds = wanted.filter((person) => places.has(person.email)).map((person) => places.get(person.email));
    const longest = [];
    let most = 0;
    olds.forEach((old, at) => {
      longest[at] = 1;
      for (let other = 0; other < at; other++) {
        if (olds[other] < old) longest[at] = Math.max(longest[at], longest[other] + 1);
      }
      most = Math.max(most, longest[at]);
    });
    return wanted.length - most + (body.rows.length - olds.length);
  }

  const isHeld = () => table.matches(":hover") || table.contains(document.activeElement);

  function draw(isAsked = false) {
    if (!wanted) return;
    const people = new Map(wanted.map((person) => [person.email, person]));
    const rows = new Map();
    for (const row of body.rows) {
      const email = row.dataset.email;
      const person = people.get(email) ?? gone.get(email);
      rows.set(email, row);
      if (person) fill(row, person);
      row.classList.toggle("gone", !people.has(email));
    }
    const count = !isAsked && isHeld() ? movers() : 0;
    $("moved").hidden = count === 0;
    if (count) {
      put($("moved"), `${number(count)} moved: put in order`);
      return;
    }
    if (!isAsked && isHeld()) return;
    for (const [email, row] of rows) {
      if (!people.has(email)) row.remove();
    }
    wanted.forEach((person, at) => {
      const row = rows.get(person.email) ?? newRow(person);
      if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] ?? null);
    });
    gone.clear();
    $("nobody").hidden = wanted.length > 0;
  }

  let isDrawing = false;
  function drawSoon() {
    if (isDrawing) return;
    isDrawing = true;
    setTimeout(() => {
      isDrawing = false;
      draw();
    }, 50);
  }

  // --- what stays --------------------------------------------------------------------------------

  function showCounts() {
    if (!counts) return;
    let sum = 0;
    for (const [state, count] of Object.entries(counts)) {
      const item = document.querySelector(`#counts [data-state="${CSS.escape(state)}"]`);
      if (!item) continue;
      sum += count;
      put(item.querySelector("b"), number(count));
      const isRare = state === "unknown" || state === "disabled";
      item.hidden = isRare && count === 0 && !states.includes(state);
    }
    put(document.querySelector("#counts [data-state=all] b"), number(sum));
  }

  function showTitle() {
    const trouble = ["offline", "late", "unknown"].filter((state) => counts?.[state]);
    let words = trouble.map((state) => `${number(counts[state])} ${state}`).join(", ");
    if (!words && counts) words = `${number(counts.online)} online`;
    if (complaint()) words = "not live";
    if (words) document.title = `${words} — rollcall`;
  }

  function showServers() {
    const lines = [...servers.values()].filter((server) => !server.hears).map((server) => {
      const line = document.createElement("p");
      const name = document.createElement("bdi");
      name.textContent = server.name;
      line.append("The server ", name, " cannot hear");
      if (server.since) {
        const time = document.createElement("time");
        time.dateTime = server.since;
        time.dataset.says = "clock";
        say(time);
        line.append(" since ", time);
      }
      line.append(": its people are unknown.");
      return line;
    });
    const text = lines.map((line) => line.textContent).join("");
    if ($("servers").textContent.trim() !== text) $("servers").replaceChildren(...lines);
  }

  // --- what a screen reader says: never more than one sentence in ten seconds -------------------------

  const told = new Map();
  let sayAgain = 0;
  function tell(text) {
    put($("said"), text);
    sayAgain = Date.now() + 10_000;
  }
  function tellChanges() {
    if (told.size === 0 || Date.now() < sayAgain) return;
    const people = [...told];
    told.clear();
    if (people.length === 1) return tell(`${people[0][0]} is ${people[0][1]}`);
    const numbers = RANKS.map((state) => [people.filter(([, to]) => to === state).length, state]);
    tell(`Changed: ${numbers.filter(([count]) => count).map((pair) => pair.join(" ")).join(", ")}`);
  }

  // --- the connection -----------------------------------------------------------------------------

  let stream = null;
  /** null: not yet. */
  let isLive = null;
  let reason = "";
  /** The last word of the stream, or its beginning; and the last time that what is shown was true. */
  let heard = 0;
  let good = Date.now();
  let tries = 0;
  let nextTry = 0;
  let isAsking = false;
  let asked = 0;

  async function ask(path) {
    let answer;
    try {
      answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    } catch {
      throw new Error("The board does not answer");
    }
    if (answer.ok) return answer.json();
    const problem = await answer.json().catch(() => ({}));
    // The page of another board: its cursor means nothing any more.
    if (answer.status === 410) {
      view.delete("after");
      location.replace(`/?${view}`);
    }
    const said = problem.detail || `the answer is ${answer.status}`;
    throw new Error(said[0].toUpperCase() + said.slice(1));
  }

  function takeHead(head) {
    counts = head.counts;
    asOf = Date.parse(head.as_of);
    servers.clear();
    for (const server of head.servers) servers.set(server.name, server);
    showCounts();
    showServers();
  }

  /** The list as the server has it now. */
  async function refresh() {
    isAsking = true;
    try {
      const answer = await ask(`/api/who${location.search}`);
      good = Date.now();
      takeHead(answer);
      position = answer.position;
      for (const person of wanted ?? []) gone.set(person.email, person);
      wanted = answer.people;
      hasNext = answer.next !== null;
      const to = new URLSearchParams(view);
      if (hasNext) to.set("after", answer.next);
      $("next").href = `/?${to}`;
      $("next").hidden = !hasNext;
      draw();
    } finally {
      isAsking = false;
      asked = Date.now();
    }
  }

  async function connect() {
    nextTry = Infinity;
    try {
      await refresh();
    } catch (error) {
      return lose(error.message);
    }
    heard = Date.now();
    stream = new EventSource(`/api/stream?after=${encodeURIComponent(position)}`);
    const on = (kind, take) =>
      stream.addEventListener(kind, (event) => {
        heard = good = Date.now();
        take(JSON.parse(event.data), event);
      });
    stream.onerror = () => lose("The connection to the board broke off");
    on("ping", (ping) => {
      ahead = Date.parse(ping.now) - Date.now();
      if (ping.as_of) asOf = Date.parse(ping.as_of);
      if (isLive === false) tell("The page is live again");
      isLive = true;
      tries = 0;
      tick();
    });
    on("counts", (fresh) => {
      counts = fresh;
      showCounts();
      showTitle();
    });
    on("server", (server) => {
      servers.set(server.name, server);
      showServers();
      asked = 0;
    });
    on("state", (change) => {
      if (change.to && change.to !== change.from) told.set(change.email, change.to);
      if (wanted) place(change.email, change.person);
      drawSoon();
    });
    on("reset", () => {
      asked = 0;
    });
  }

  function lose(why) {
    stream?.close();
    stream = null;
    const wasLive = isLive !== false;
    isLive = false;
    reason = why;
    nextTry = Date.now() + PAUSES[Math.min(tries, PAUSES.length - 1)] * 1000;
    tries += 1;
    tick();
    if (wasLive) tell($("why").textContent);
  }

  /** Why what is shown is not what is; "" if it is. */
  function complaint() {
    if (isLive === false) {
      const left = Math.max(0, Math.ceil((nextTry - Date.now()) / 1000));
      const next = left > 0 && left < Infinity ? `The next try is in ${left}s.` : "Trying again.";
      const since = `Not live since ${clock(good)} (${age(Math.floor((Date.now() - good) / 1000))}).`;
      return `${since} ${reason.replace(/\.?$/, ".")} Everything below is as it was then. ${next}`;
    }
    if (isLive && now() - asOf > OLD) {
      return `Not live since ${clock(asOf - ahead)}. The board cannot read its database. Everything below is as it was then.`;
    }
    return "";
  }

  function tick() {
    if (stream && Date.now() - heard > SILENCE) return lose("Nothing comes from the board");
    const words = complaint();
    document.body.classList.toggle("stale", words !== "");
    $("down").hidden = words === "";
    $("again").hidden = isLive !== false;
    put($("why"), words);
    put($("live"), words ? "Not live" : isLive ? "Live" : "Connecting");
    $("live").classList.toggle("on", isLive === true && !words);
    showTitle();
    // What is not known to be so any more gets no older either.
    if (!words) body.querySelectorAll("time[datetime]").forEach(say);
    if (Date.now() >= nextTry) connect();
    const isDue = Date.now() - asked > REFRESH && document.visibilityState === "visible";
    if (isLive && !isAsking && isDue) refresh().catch((error) => isLive && lose(error.message));
    tellChanges();
  }

  function tryNow() {
    if (isLive === false && nextTry !== Infinity) connect();
  }

  $("again").addEventListener("click", tryNow);
  addEventListener("online", tryNow);
  document.addEventListener("visibilitychange", tick);
  // Coming back from the browser's store of pages, where nothing went on.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  $("moved").addEventListener("click", () => draw(true));
  let leaving = 0;
  for (const kind of ["pointerleave", "focusout"]) {
    table.addEventListener(kind, () => {
      clearTimeout(leaving);
      leaving = setTimeout(() => draw(), 1500);
    });
  }
  body.addEventListener("animationend", (event) => event.target.closest("tr")?.classList.remove("changed"));

  connect();
  setInterval(tick, 1000);
  tick();
})();
