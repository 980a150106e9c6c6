"use strict";
// The list of questions of a report. Whatever a model or a file wrote becomes text nodes only, never markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const BATCH = 100; // questions drawn at once; more on request

  function make(tag, className, ...children) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  // base64 -> zlib -> JSON
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  // --- points of the plots ---------------------------------------------------------------------------------------

  const tip = make("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  document.body.append(tip);

  for (const point of document.querySelectorAll(".point")) {
    const title = point.querySelector("title");
    const row = point.closest("section").querySelector(`tr[data-rule="${Number(point.dataset.rule)}"]`);
    point.setAttribute("aria-label", title.textContent);
    point.setAttribute("role", "img");
    const words = title.textContent;
    title.remove(); // the browser would show it as well, later
    const show = () => {
      tip.textContent = words;
      tip.hidden = false;
      const box = point.getBoundingClientRect();
      const left = Math.min(box.right + 10, document.documentElement.clientWidth - tip.offsetWidth - 8);
      const above = box.top - tip.offsetHeight - 8;
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
      row?.classList.add("lit");
    };
    const hide = () => {
      tip.hidden = true;
      row?.classList.remove("lit");
    };
    for (const name of ["mouseenter", "focus"]) point.addEventListener(name, show);
    for (const name of ["mouseleave", "blur"]) point.addEventListener(name, hide);
  }

  // --- texts, in the page or beside it ---------------------------------------------------------------------------

  const inside = JSON.parse($("texts").textContent);
  const waiting = new Map(); // number of a file -> [promise, how to keep it]
  const digest = $("texts").dataset.digest;
  const folder = $("texts").dataset.folder;

  window.fastsampleTexts = (number, itsDigest, texts) => {
    const [, resolve, reject] = waiting.get(number);
    if (itsDigest === digest) resolve(texts);
    else reject(new Error(`The file ${folder}/${number}.js belongs to another report; make this one again.`));
  };

  function fileOf(number) {
    if (!waiting.has(number)) {
      const kept = [null];
      kept[0] = new Promise((resolve, reject) => kept.push(resolve, reject));
      waiting.set(number, kept);
      const script = document.createElement("script");
      script.onerror = () => {
        waiting.delete(number);
        script.remove();
        kept[2](new Error(`These texts are in ${folder}/${number}.js, which is not beside this page.`));
      };
      script.src = `${encodeURIComponent(folder)}/${number}.js`;
      document.head.append(script);
    }
    return waiting.get(number)[0];
  }

  async function textsOf(place, file) {
    return unpack(file < 0 ? inside[place] : (await fileOf(file))[place]);
  }

  // --- one question ----------------------------------------------------------------------------------------------

  const WORDS = { right: "✓ right", wrong: "✗ wrong", unknown: "no key", open: "open" };
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const tagged = (state) => make("span", `tag ${state}`, WORDS[state]);
  const number = (n) => n.toLocaleString("en");

  function barOf(run, right) {
    const bar = make("div", "votes");
    for (const [answer, isRight, isOurs, votes] of run.votes) {
      const part = make("i", isRight ? "r" : isOurs ? (right === null ? "u" : "w") : "o");
      part.style.flex = `${sum(votes)} 1 0`;
      part.title = `${answer} ×${sum(votes)}`;
      bar.append(part);
    }
    const silent = make("i", "n");
    silent.style.flex = `${sum(run.silent)} 1 0`;
    silent.title = `no answer ×${sum(run.silent)}`;
    if (sum(run.silent)) bar.append(silent);
    return bar;
  }

  function summaryOf(question, names) {
    const what = make("div", "what", make("div", "text", question.question));
    what.append(make("div", "id", question.key, question.right === null ? "" : ` · right answer ${question.right}`));
    const got = make("div");
    question.runs.forEach((run, i) => {
      if (run === null) {
        got.append(make("div", "got", make("span", "tag unknown", "not asked"), names.length > 1 ? names[i] : ""));
        return;
      }
      const total = sum(run.votes.map((v) => sum(v[3])));
      const mine = sum((run.votes.find((v) => v[2]) ?? [0, 0, 0, []])[3]);
      const answer = make("span", "answer", names.length > 1 ? `${names[i]}: ` : "");
      answer.append(make("b", "", run.answer ?? "no answer"), ` ${mine} of ${total}`);
      const marks = [run.split ? make("span", "tag split", " split") : null];
      const cut = sum(run.cut);
      marks.push(cut ? make("span", "tag cut", ` ${cut} cut`) : null);
      answer.append(...marks.filter(Boolean));
      got.append(make("div", "got", tagged(run.state), answer, barOf(run, question.right)));
    });
    return make("summary", "", what, got);
  }

  function votesTable(run, isBeside) {
    const MOST = isBeside || document.documentElement.clientWidth < 600 ? 3 : 6;
    const shown = run.votes.slice(0, MOST);
    const rest = run.votes.slice(MOST);
    const columns = shown.map(([answer, isRight, , votes]) => [isRight ? `${answer} ✓` : answer, votes, isRight]);
    const each = (f) => run.temperatures.map((_, t) => f(t));
    if (rest.length) columns.push([rest.length === 1 ? "1 other" : `${rest.length} others`, each((t) => sum(rest.map((v) => v[3][t])))]);
    if (sum(run.silent)) columns.push(["no answer", run.silent]);
    if (sum(run.cut)) columns.push(["cut", run.cut]);
    columns.push(["samples", run.samples]);
    const head = make("tr", "", make("th", "", "T"));
    for (const [name, , isRight] of columns) {
      const cell = make("th", isRight ? "right" : "", name);
      cell.title = name;
      head.append(cell);
    }
    const body = make("tbody");
    run.temperatures.forEach((t, i) => {
      body.append(make("tr", "", make("td", "", t), ...columns.map((c) => make("td", "", c[1][i] ? number(c[1][i]) : "·"))));
    });
    if (run.temperatures.length > 1) {
      body.append(make("tr", "", make("th", "", "all"), ...columns.map((c) => make("th", "", number(sum(c[1]))))));
    }
    return make("div", "scroll", make("table", "", make("thead", "", head), body));
  }

  function sampleOf([temperature, k, answer, isRight, tokens, finish, score, text], hasKey) {
    const item = make("details", "s");
    const head = make("span", "head", `T ${temperature} #${k + 1} `);
    head.append(make("b", answer === null || !hasKey ? "" : isRight ? "right" : "wrong", answer ?? "no answer"));
    if (answer !== null && hasKey) head.append(isRight ? " ✓" : " ✗");
    if (finish === "length") head.append(make("span", "tag cut", " cut"));
    item.append(make("summary", "", head, make("span", "peek", text.slice(0, 200))));
    const facts = [`${number(tokens)} tokens`, { eos: "ended by itself", stop: "ended by a stop text", length: "cut by its limit" }[finish] ?? finish];
    if (score !== null) facts.push(`score ${score}`);
    item.append(make("p", "facts", facts.join(" · ")), make("pre", "", text));
    return item;
  }

  function runOf(run, samples, name, hasKey) {
    const section = make("section", "");
    if (name) section.append(make("h3", "", name));
    if (run === null) return section.append(make("p", "", "This run did not ask it.")), section;
    section.append(votesTable(run, name !== ""));
    const choose = make("select");
    choose.setAttribute("aria-label", "samples shown");
    const choices = [["all samples", () => true]];
    for (const t of run.temperatures) choices.push([`T ${t}`, (s) => s[0] === t]);
    if (hasKey) choices.push(["right", (s) => s[3]], ["wrong", (s) => !s[3]]);
    choices.push(["no answer", (s) => s[2] === null], ["cut", (s) => s[5] === "length"]);
    for (const [label, test] of choices) {
      const option = make("option", "", `${label} (${samples.filter(test).length})`);
      choose.append(option);
    }
    const all = make("button", "", "open all");
    all.type = "button";
    const list = make("div", "samples");
    const fill = () => list.replaceChildren(...samples.filter(choices[choose.selectedIndex][1]).map((s) => sampleOf(s, hasKey)));
    choose.addEventListener("change", fill);
    all.addEventListener("click", () => {
      const isAnyClosed = list.querySelector(".s:not([open])") !== null;
      for (const s of list.querySelectorAll(".s")) s.open = isAnyClosed;
      all.textContent = isAnyClosed ? "close all" : "open all";
    });
    fill();
    section.append(make("p", "", choose, " ", all), list);
    return section;
  }

  async function fillQuestion(node, question, place, file, names) {
    const body = make("div", "inside", make("p", "count", "unpacking ..."));
    node.append(body);
    try {
      const texts = await textsOf(place, file);
      const link = make("a", "", "link to this question");
      link.href = `#q=${encodeURIComponent(question.key)}`;
      const columns = question.runs.map((run, i) => runOf(run, texts.runs[i], names.length > 1 ? names[i] : "", question.right !== null));
      body.replaceChildren(make("p", "full", texts.question), make("p", "count", link), make("div", "columns", ...columns));
    } catch (error) {
      body.replaceChildren(make("p", "note", error.message));
    }
  }

  // --- the list --------------------------------------------------------------------------------------------------

  const FILTERS = {
    all: () => true,
    right: (run) => run?.state === "right",
    wrong: (run) => run?.state === "wrong",
    split: (run) => Boolean(run?.split),
    cut: (run) => run !== null && sum(run.cut) > 0,
  };
  const judged = (q) => q.runs.filter((run) => run && (run.state === "right" || run.state === "wrong"));
  const isDifferent = (q) => new Set(judged(q).map((run) => run.state)).size > 1;

  function listOf({ runs: names, questions, files }) {
    const list = $("list");
    const state = { filter: "all", run: 0, words: "", shown: BATCH };
    const nodes = new Map();
    const tests = { ...FILTERS };
    if (names.length > 1) tests.differs = null;
    const test = (name, q) => (name === "differs" ? isDifferent(q) : tests[name](q.runs[state.run]));

    const buttons = Object.keys(tests).map((name) => {
      const button = make("button", "", name);
      button.type = "button";
      button.dataset.filter = name;
      button.addEventListener("click", () => change({ filter: name }));
      return button;
    });
    const search = make("input");
    search.type = "search";
    search.placeholder = "id, question or answer";
    search.setAttribute("aria-label", "find questions");
    search.addEventListener("input", () => change({ words: search.value.toLowerCase() }));
    const bar = $("filters");
    bar.append(...buttons);
    if (names.length > 1) {
      const choose = make("select", "", ...names.map((name) => make("option", "", `in ${name}`)));
      choose.setAttribute("aria-label", "the run that the filters look at");
      choose.addEventListener("change", () => change({ run: choose.selectedIndex }));
      bar.append(choose);
    }
    bar.append(search);

    function isFound(q) {
      const answers = q.runs.map((run) => run?.answer ?? "").join("\n");
      return `${q.key}\n${q.question}\n${answers}`.toLowerCase().includes(state.words);
    }

    function nodeOf(place) {
      if (!nodes.has(place)) {
        const node = make("details", "q", summaryOf(questions[place], names));
        node.dataset.key = questions[place].key;
        node.addEventListener("toggle", () => {
          if (node.open && !node.querySelector(".inside")) fillQuestion(node, questions[place], place, files[place], names);
        });
        nodes.set(place, node);
      }
      return nodes.get(place);
    }

    function change(what) {
      Object.assign(state, { shown: BATCH }, what);
      const places = [...questions.keys()];
      const chosen = places.filter((p) => test(state.filter, questions[p]) && isFound(questions[p]));
      for (const button of buttons) {
        const name = button.dataset.filter;
        const count = questions.filter((q) => test(name, q)).length;
        button.textContent = `${name} ${number(count)}`;
        button.disabled = count === 0 && name !== state.filter;
        button.setAttribute("aria-pressed", String(name === state.filter));
      }
      $("count").textContent = `${number(chosen.length)} of ${number(questions.length)} questions`;
      list.replaceChildren(...chosen.slice(0, state.shown).map(nodeOf));
      if (chosen.length > state.shown) {
        const more = make("button", "", `show ${Math.min(BATCH, chosen.length - state.shown)} more`);
        more.type = "button";
        more.addEventListener("click", () => change({ shown: state.shown + BATCH }));
        list.append(make("p", "", more));
      }
    }

    function follow() {
      const match = /^#q=(.*)$/.exec(location.hash);
      if (match === null) return;
      let key = match[1];
      try { key = decodeURIComponent(key); } catch { /* not ours: looked for as it is */ }
      const place = questions.findIndex((q) => q.key === key);
      if (place < 0) {
        $("count").textContent = `no question is called ${key}`;
        return;
      }
      search.value = "";
      if (!list.contains(nodes.get(place) ?? null)) change({ filter: "all", words: "", shown: Math.max(BATCH, place + 1) });
      nodeOf(place).open = true;
      nodeOf(place).scrollIntoView({ block: "start" });
    }

    change({});
    follow();
    window.addEventListener("hashchange", follow);
  }

  const packed = JSON.parse($("index").textContent);
  unpack(packed).then(listOf).catch((error) => {
    $("count").textContent = `The list of questions cannot be shown: ${error.message}. It needs a browser of 2023 or newer.`;
  });
})();
