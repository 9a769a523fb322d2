// Browsers refuse workers to pages that are opened from a folder. There the search runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.waiting = [];
      this.scope = frame.contentWindow;
      this.scope.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      this.scope.importScripts = (...names) => Promise.all(names.map((name) => this.load(new URL(name, url))));
      this.ready = this.load(url);
    }
    load(url) {
      const script = this.scope.document.createElement("script");
      script.src = String(url);
      const loaded = new Promise((resolve, reject) => { script.onload = resolve; script.onerror = reject; });
      this.scope.document.body.append(script);
      return loaded;
    }
    postMessage(data) {
      this.ready.then(() => this.scope.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.scope.frameElement.remove();
    }
  };
}
