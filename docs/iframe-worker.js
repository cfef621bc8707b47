// Search when the pages are opened from a folder. Browsers start no worker from a file: here the worker's script runs in
// a hidden frame instead, and messages go between the two windows.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = `<script>
        window.postMessage = data => parent.dispatchEvent(new MessageEvent("from-worker", {data}));
        window.importScripts = (...urls) => Promise.all(urls.map(url => new Promise((resolve, reject) => {
          const script = document.createElement("script");
          Object.assign(script, {src: url, onload: resolve, onerror: reject});
          document.body.append(script);
        })));
      <\/script><body><script src="${new URL(url, location)}"><\/script>`;
      window.addEventListener("from-worker", event => this.dispatchEvent(new MessageEvent("message", {data: event.data})));
      this.frame.addEventListener("load", () => {
        this.ready = true;
        this.waiting.forEach(data => this.postMessage(data));
      });
      document.documentElement.append(this.frame);
    }

    postMessage(data) {
      if (this.ready) {
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data}));
      } else {
        this.waiting.push(data);
      }
    }

    terminate() {
      this.frame.remove();
    }
  };
}
