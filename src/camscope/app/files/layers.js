import { element, Viewer } from "/viewer.js";
import { post, postForFile } from "/server.js";
import { fillClasses, forViewer } from "/ask.js";

const $ = (id) => document.getElementById(id);

export function layers(app) {
  const viewers = [];
  let address = "";

  function reset() {
    fillClasses($("layers-class"), app, app.wanted.class);
    viewers.splice(0).forEach((viewer) => viewer.close());
    $("stages").replaceChildren();
    $("steps").replaceChildren();
    if (address) URL.revokeObjectURL(address);
    address = "";
  }

  const target = () => Number($("layers-class").value);

  async function stages() {
    await app.run("Computing one map per stage …", async () => {
      const { maps } = await post("/api/layers", app.body({ target: target() }));
      viewers.splice(0).forEach((viewer) => viewer.close());
      $("stages").replaceChildren();
      maps.forEach((map, n) => {
        const host = element("div");
        $("stages").append(element("figure", {}, element("figcaption", { text: `${n + 1}. ${map.layer}: ${map.grid.height} × ${map.grid.width} cells` }), host));
        const viewer = new Viewer(host, app.look, app.tables, { label: `${app.picture.name}, layer ${map.layer}` });
        viewer.setPicture(app.pixels);
        viewer.setMap(forViewer(map));
        viewers.push(viewer);
      });
    });
  }

  async function steps() {
    await app.run("Drawing the steps …", async () => {
      const file = await postForFile("/api/steps", app.body({ target: target() }));
      if (address) URL.revokeObjectURL(address);
      address = URL.createObjectURL(file);
      $("steps").replaceChildren(element("h2", { text: "The steps of Grad-CAM" }),
        element("p", { class: "caption", text: "The network makes many small maps, its channels. Each gets a weight: how much the answer would grow with it. Their weighted sum, without its negative part, is the heat map." }),
        element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Steps of Grad-CAM" }, element("img", { src: address, alt: `Steps of Grad-CAM of ${app.label(target())}: the picture, the strongest channels with their weights, their sum, and the heat map.` })));
    });
  }

  $("show-layers").addEventListener("click", stages);
  $("show-steps").addEventListener("click", steps);
  $("layers-class").addEventListener("change", () => { app.wanted.class = $("layers-class").value; app.remember({}); if (viewers.length) stages(); if (address) steps(); });
  return { reset, show: async () => { if (!viewers.length) await stages(); } };
}
