"use strict";
(() => {
  let { meshes, live } = JSON.parse(document.getElementById("meshes").textContent);
  const $ = (id) => document.getElementById(id);
  const FRONT = "#afc7ee", BACK = "#e8623d", LINE = "#16233b";
  const VIEW = new THREE.Vector3(Math.cos(0.4) * Math.sin(0.6), Math.sin(0.4), Math.cos(0.4) * Math.cos(0.6));
  const HALF_ANGLE = 0.25; // half the field of view, radians
  const SHARP = Math.cos(0.8); // creases of more than so many radians stay sharp when shading is smooth
  const REACH = 1.5; // half the side of the ground that takes a shadow; meshes lie in [-1, 1]

  // ---- The meshes, as Python packed them

  function bytes(base64) {
    const text = atob(base64), array = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) array[i] = text.charCodeAt(i);
    return array.buffer;
  }

  function decode(entry) {
    if (!entry.decoded) {
      const kind = entry.index === "int16" ? Int16Array : Int32Array;
      const mesh = { corners: entry.corners, vertices: new Float32Array(bytes(entry.vertices)), faces: new kind(bytes(entry.faces)) };
      entry.decoded = { ...mesh, ...triangulate(mesh), ...sides(mesh), stays: entry.stays };
    }
    return entry.decoded;
  }

  const corner = (vertices, i) => new THREE.Vector3().fromArray(vertices, 3 * i);

  // A quad is cut along the diagonal whose smaller half is larger: concave ones are cut inside.
  function triangulate({ corners, vertices, faces }) {
    if (corners === 3) return { triangles: Uint32Array.from(faces) };
    const triangles = [];
    for (let f = 0; f < faces.length; f += 4) {
      const quad = [...faces.subarray(f, f + 4)];
      if (quad[3] < 0) { triangles.push(...quad.slice(0, 3)); continue; }
      const points = quad.map((i) => corner(vertices, i));
      const toward = points[2].clone().sub(points[0]).cross(points[3].clone().sub(points[1]));
      const half = (i) => {
        const here = points[i], before = points[(i + 3) % 4], after = points[(i + 1) % 4];
        return here.clone().sub(before).cross(after.clone().sub(here)).dot(toward);
      };
      const [a, b, c, d] = Math.min(half(0), half(2)) > Math.min(half(1), half(3)) ? [...quad.slice(1), quad[0]] : quad;
      triangles.push(a, b, c, a, c, d);
    }
    return { triangles: Uint32Array.from(triangles) };
  }

  // Every edge of every face once; how many bound one face only, or more than two, or two that are wound unlike.
  function sides({ corners, vertices, faces }) {
    const uses = new Map(), turns = new Map(), count = vertices.length / 3;
    for (let f = 0; f < faces.length; f += corners) {
      const k = corners === 4 && faces[f + 3] < 0 ? 3 : corners;
      for (let i = 0; i < k; i++) {
        const a = faces[f + i], b = faces[f + (i + 1) % k], key = Math.min(a, b) * count + Math.max(a, b);
        uses.set(key, (uses.get(key) || 0) + 1);
        turns.set(key, (turns.get(key) || 0) + Math.sign(b - a));
      }
    }
    const edges = new Uint32Array(2 * uses.size);
    let at = 0, open = 0, crowded = 0, mixed = 0;
    for (const [key, times] of uses) {
      edges[at++] = Math.floor(key / count); edges[at++] = key % count;
      open += times === 1; crowded += times > 2; mixed += times === 2 && turns.get(key) !== 0;
    }
    return { edges, open, crowded, mixed };
  }

  // ---- What is drawn: two-sided surface, edges, a soft shadow on the ground

  function model(mesh, materials) {
    const group = new THREE.Group(), surface = new THREE.BufferGeometry(), wire = new THREE.BufferGeometry();
    const { centre, scale, low } = frame(mesh);
    const placed = new Float32Array(mesh.vertices.length);
    for (let i = 0; i < placed.length; i++) placed[i] = (mesh.vertices[i] - centre[i % 3]) * scale;
    const corners = new Float32Array(3 * mesh.triangles.length);
    mesh.triangles.forEach((vertex, i) => corners.set(placed.subarray(3 * vertex, 3 * vertex + 3), 3 * i));
    surface.setAttribute("position", new THREE.BufferAttribute(corners, 3));
    surface.setAttribute("normal", new THREE.BufferAttribute(softNormals(corners, mesh.triangles), 3));
    wire.setAttribute("position", new THREE.BufferAttribute(placed, 3));
    wire.setIndex(new THREE.BufferAttribute(mesh.edges, 1));
    const front = new THREE.Mesh(surface, materials.front), back = new THREE.Mesh(surface, materials.back);
    const lines = new THREE.LineSegments(wire, materials.lines);
    const texture = shadow(placed, mesh.triangles), ground = new THREE.Mesh(new THREE.PlaneGeometry(2 * REACH, 2 * REACH), materials.ground);
    ground.rotation.x = -Math.PI / 2; ground.position.y = (low - centre[1]) * scale - 0.004; ground.renderOrder = -1;
    group.add(front, back, lines, ground);
    const darkness = 0.35 + 0.55 * Math.min(1, 40 / Math.sqrt(mesh.edges.length / 2 + 1)); // fainter where dense
    const use = () => { materials.ground.map = texture; materials.lines.opacity = darkness; };
    const dispose = () => { texture.dispose(); for (const { geometry } of group.children) geometry.dispose(); };
    return { group, use, dispose, radius: radius(placed, mesh.triangles) };
  }

  // For smooth shading, each corner's mean normal of the faces around its vertex, save those beyond a sharp crease.
  function softNormals(corners, triangles) {
    const count = triangles.length / 3, normals = new Float32Array(corners.length), around = new Map(), faces = [];
    for (let t = 0; t < count; t++) {
      const [a, b, c] = [0, 1, 2].map((i) => corner(corners, 3 * t + i)), vector = b.sub(a).cross(c.sub(a));
      faces.push({ vector, unit: vector.clone().normalize() });
    }
    triangles.forEach((vertex, i) => { around.has(vertex) ? around.get(vertex).push(i) : around.set(vertex, [i]); });
    for (const uses of around.values()) {
      for (const i of uses) {
        const { unit } = faces[Math.floor(i / 3)], sum = new THREE.Vector3();
        for (const j of uses) {
          const other = faces[Math.floor(j / 3)];
          if (unit.dot(other.unit) > SHARP) sum.add(other.vector);
        }
        (sum.lengthSq() ? sum.normalize() : unit).toArray(normals, 3 * i);
      }
    }
    return normals;
  }

  // One set for all meshes of a view: each new material would be a shader to compile. Backs lie a little behind fronts,
  // so that of a two-sided sheet the near side is seen, and edges a little before both. These offsets do not depend on
  // the slope: where faces are seen edge-on, that would bring the backs to the front.
  function materialSet() {
    const side = (color, side, behind) => new THREE.MeshLambertMaterial(
      { color, side, flatShading: true, polygonOffset: true, polygonOffsetFactor: 0, polygonOffsetUnits: behind });
    const lines = new THREE.LineBasicMaterial({ color: LINE, transparent: true });
    lines.onBeforeCompile = (shader) => {
      const project = "#include <project_vertex>";
      shader.vertexShader = shader.vertexShader.replace(project, `${project}\n gl_Position.z -= 2e-5 * gl_Position.w;`);
    };
    const ground = new THREE.MeshBasicMaterial({ map: new THREE.CanvasTexture(document.createElement("canvas")), transparent: true, depthWrite: false });
    return { front: side(FRONT, THREE.FrontSide, 0), back: side(BACK, THREE.BackSide, 60), lines, ground };
  }

  // The box of the vertices in use, brought to [-1, 1]; one that stays where it lies there is not moved.
  function frame({ vertices, triangles, stays }) {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    for (const i of triangles) {
      for (let axis = 0; axis < 3; axis++) {
        low[axis] = Math.min(low[axis], vertices[3 * i + axis]); high[axis] = Math.max(high[axis], vertices[3 * i + axis]);
      }
    }
    if (!triangles.length) return { centre: [0, 0, 0], scale: 1, low: 0 };
    if (stays) return { centre: [0, 0, 0], scale: 1 / 0.95, low: low[1] };
    const longest = Math.max(...high.map((value, axis) => value - low[axis]));
    return { centre: high.map((value, axis) => value / 2 + low[axis] / 2), scale: longest > 0 ? 2 / longest : 1, low: low[1] };
  }

  function radius(placed, triangles) {
    let largest = 0;
    for (const i of triangles) largest = Math.max(largest, Math.hypot(placed[3 * i], placed[3 * i + 1], placed[3 * i + 2]));
    return largest || 1;
  }

  // The mesh seen from above, blurred. Drawn on a plane below it, whose back face is culled: no shadow from below.
  function shadow(placed, triangles) {
    const SIDE = 160, canvas = document.createElement("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
    canvas.width = canvas.height = SIDE;
    const pixel = (i) => [(placed[3 * i] / REACH + 1) * SIDE / 2, (placed[3 * i + 2] / REACH + 1) * SIDE / 2];
    pen.beginPath();
    for (let t = 0; t < triangles.length; t += 3) {
      const [a, b, c] = [pixel(triangles[t]), pixel(triangles[t + 1]), pixel(triangles[t + 2])];
      const turned = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]) < 0; // one way round: no holes
      pen.moveTo(...a); pen.lineTo(...(turned ? c : b)); pen.lineTo(...(turned ? b : c)); pen.closePath();
    }
    pen.fill();
    const image = pen.getImageData(0, 0, SIDE, SIDE), dark = Float32Array.from({ length: SIDE * SIDE }, (_, i) => image.data[4 * i + 3]);
    for (let pass = 0; pass < 3; pass++) { blur(dark, SIDE, 1, SIDE); blur(dark, SIDE, SIDE, 1); }
    for (let i = 0; i < dark.length; i++) image.data.set([9, 13, 24, dark[i] * 0.42], 4 * i);
    pen.putImageData(image, 0, 0);
    return new THREE.CanvasTexture(canvas);
  }

  function blur(values, side, step, stride) {
    const WIDE = 4, line = new Float32Array(side);
    for (let row = 0; row < side; row++) {
      let sum = 0;
      for (let i = -WIDE; i < side; i++) {
        if (i + WIDE < side) sum += values[row * stride + (i + WIDE) * step];
        if (i > WIDE) sum -= values[row * stride + (i - WIDE - 1) * step];
        if (i >= 0) line[i] = sum / (2 * WIDE + 1);
      }
      for (let i = 0; i < side; i++) values[row * stride + i * step] = line[i];
    }
  }

  function world() {
    const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(2 * HALF_ANGLE * 180 / Math.PI, 1, 0.01, 100);
    const key = new THREE.DirectionalLight("#fff4e2", 2.4);
    key.position.set(-0.42, 0.62, 0.66); // goes with the camera
    camera.add(key); scene.add(camera, new THREE.HemisphereLight("#e4edff", "#9096a6", 1.65));
    return { scene, camera, materials: materialSet() };
  }

  // Far enough for a ball of radius `size`.
  function place(camera, size) {
    const narrow = Math.min(1, camera.aspect);
    camera.position.copy(VIEW).multiplyScalar(size / Math.sin(Math.atan(Math.tan(HALF_ANGLE) * narrow)));
    camera.near = camera.position.length() / 100; camera.far = camera.position.length() * 20;
    camera.lookAt(0, 0, 0); camera.updateProjectionMatrix();
  }

  function start(canvas) {
    try {
      const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
      renderer.setClearAlpha(0);
      return renderer;
    } catch {
      return null;
    }
  }

  // ---- The large view

  const main = { ...world(), renderer: start($("view")), model: null, dirty: true };
  const options = { wireframe: true, smooth: false, backs: true, rotate: false };
  const controls = new THREE.OrbitControls(main.camera, $("view"));
  Object.assign(controls, { enableDamping: true, dampingFactor: 0.12, autoRotateSpeed: 2.4, zoomSpeed: 0.8 });

  function applyOptions() {
    for (const name of Object.keys(options)) $(name).setAttribute("aria-pressed", options[name]);
    controls.autoRotate = options.rotate;
    const { front, back, lines } = main.materials;
    lines.visible = options.wireframe;
    for (const material of [front, back]) {
      if (material.flatShading === options.smooth) material.needsUpdate = true;
      material.flatShading = !options.smooth;
    }
    back.color.set(options.backs ? BACK : FRONT);
    main.dirty = true;
  }

  function resetView() {
    controls.target.set(0, 0, 0);
    place(main.camera, 1.22 * (meshes[chosen]?.growing ? 1.25 : main.model ? main.model.radius : 1));
    controls.minDistance = main.camera.near * 12; controls.maxDistance = main.camera.far / 4;
    controls.update(); main.dirty = true;
  }

  function resize() {
    const { clientWidth: width, clientHeight: height } = $("stage");
    if (!main.renderer || !width || !height) return;
    const before = Math.min(1, main.camera.aspect);
    main.renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
    main.renderer.setSize(width, height, false);
    main.camera.aspect = width / height;
    main.camera.position.multiplyScalar(before / Math.min(1, main.camera.aspect));
    main.camera.setViewOffset(width, height, 0, 20, width, height); // the bar hides some of the lower edge
    main.dirty = true;
  }

  function tick() {
    if (controls.update() || main.dirty) main.renderer?.render(main.scene, main.camera);
    main.dirty = false;
    requestAnimationFrame(tick);
  }

  // ---- Choosing a mesh

  let chosen = 0, shown = meshes.map((_, i) => i);
  const number = (value) => value.toLocaleString("en");
  const plural = (value, one, many) => `${number(value)} ${value === 1 ? one : many}`;

  function facts(entry) {
    const mesh = decode(entry), list = [
      [plural(mesh.faces.length / mesh.corners, "face", "faces")],
      [plural(mesh.vertices.length / 3, "vertex", "vertices")],
      mesh.open ? [plural(mesh.open, "open edge", "open edges"), true] : ["closed"],
    ];
    if (mesh.crowded) list.push([plural(mesh.crowded, "edge of 3+ faces", "edges of 3+ faces"), true]);
    if (mesh.mixed) list.push([plural(mesh.mixed, "edge of mixed winding", "edges of mixed winding"), true]);
    if (!mesh.faces.length) list.splice(2);
    return list.map(([text, doubt]) => {
      const item = document.createElement("li");
      item.textContent = text; item.className = doubt ? "doubt" : "";
      return item;
    });
  }

  function choose(index, keepView = false) {
    chosen = index;
    const entry = meshes[index];
    $("title").textContent = entry.title; $("caption").textContent = entry.caption;
    $("facts").replaceChildren(...facts(entry));
    main.model?.dispose();
    if (main.model) main.scene.remove(main.model.group);
    main.model = model(decode(entry), main.materials);
    main.model.use(); main.scene.add(main.model.group);
    const trouble = !main.renderer ? "This browser offers no WebGL: meshes cannot be drawn, but they can be downloaded."
      : decode(entry).faces.length ? "" : "This mesh has no faces.";
    $("trouble").textContent = trouble; $("trouble").hidden = !trouble;
    if (!keepView) resetView();
    markCard();
    if (live) return;
    try { history.replaceState(null, "", `#${index + 1}`); } catch { /* some browsers refuse this for local files */ }
  }

  function markCard() {
    for (const card of $("cards").children) card.setAttribute("aria-current", String(Number(card.dataset.index) === chosen));
    $("cards").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
    $("place").textContent = `${shown.indexOf(chosen) + 1 || "–"} / ${shown.length}`;
    $("previous").disabled = $("next").disabled = shown.length < 2;
  }

  function step(by) {
    if (!shown.length) return;
    const at = shown.indexOf(chosen);
    choose(shown[at < 0 ? 0 : (at + by + shown.length) % shown.length]);
  }

  // ---- The shelf of thumbnails, drawn when they come into sight

  const small = { ...world(), renderer: start(document.createElement("canvas")) };
  small.renderer?.setSize(240, 240, false);
  const sight = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) {
      if (isIntersecting) { sight.unobserve(target); thumbnail(target); }
    }
  }, { root: $("cards"), rootMargin: "300px" });

  function thumbnail(card) {
    if (!small.renderer) return;
    const made = model(decode(meshes[card.dataset.index]), small.materials), canvas = card.firstChild;
    made.use(); small.scene.add(made.group); place(small.camera, 1.02 * made.radius);
    small.renderer.render(small.scene, small.camera);
    canvas.width = canvas.height = 240;
    canvas.getContext("2d").drawImage(small.renderer.domElement, 0, 0);
    small.scene.remove(made.group); made.dispose();
  }

  function card(index) {
    const button = document.createElement("button");
    button.className = "card"; button.type = "button"; button.dataset.index = index;
    button.append(document.createElement("canvas"), document.createElement("b"), document.createElement("small"));
    button.addEventListener("click", () => choose(index));
    label(button); sight.observe(button);
    return button;
  }

  function label(button) {
    const entry = meshes[button.dataset.index], [, name, count] = button.children;
    button.title = entry.caption ? `${entry.title}\n${entry.caption}` : entry.title;
    name.textContent = entry.label || entry.title; count.textContent = plural(entry.count, "face", "faces");
  }

  function search() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = ({ title, caption }) => `${title} ${caption}`.toLowerCase();
    shown = [...meshes.keys()].filter((i) => words.every((word) => text(meshes[i]).includes(word)));
    for (const button of $("cards").children) button.hidden = !shown.includes(Number(button.dataset.index));
    $("nothing").hidden = shown.length > 0;
    markCard();
  }

  // ---- Files

  // The shortest decimal that is the same float32.
  function decimal(value) {
    for (let digits = 6; digits < 9; digits++) {
      const short = Number(value.toPrecision(digits));
      if (Math.fround(short) === value) return String(short);
    }
    return String(Number(value.toPrecision(9)));
  }

  function objFile({ corners, vertices, faces }) {
    const lines = [];
    for (let i = 0; i < vertices.length; i += 3) lines.push(`v ${[...vertices.subarray(i, i + 3)].map(decimal).join(" ")}`);
    for (let f = 0; f < faces.length; f += corners) {
      lines.push(`f ${[...faces.subarray(f, f + corners)].filter((i) => i >= 0).map((i) => i + 1).join(" ")}`);
    }
    return new Blob([lines.join("\n"), "\n"], { type: "model/obj" });
  }

  function glbFile({ vertices, triangles }) {
    const low = [0, 1, 2].map((axis) => vertices.reduce((least, value, i) => i % 3 === axis ? Math.min(least, value) : least, Infinity));
    const high = [0, 1, 2].map((axis) => vertices.reduce((most, value, i) => i % 3 === axis ? Math.max(most, value) : most, -Infinity));
    const document = {
      asset: { version: "2.0", generator: "meshgpt" }, scene: 0, scenes: [{ nodes: [0] }], nodes: [{ mesh: 0 }],
      meshes: [{ primitives: [{ attributes: { POSITION: 0 }, indices: 1 }] }],
      accessors: [
        { bufferView: 0, componentType: 5126, count: vertices.length / 3, type: "VEC3", min: low, max: high },
        { bufferView: 1, componentType: 5125, count: triangles.length, type: "SCALAR" },
      ],
      bufferViews: [
        { buffer: 0, byteLength: vertices.byteLength, target: 34962 },
        { buffer: 0, byteOffset: vertices.byteLength, byteLength: triangles.byteLength, target: 34963 },
      ],
      buffers: [{ byteLength: vertices.byteLength + triangles.byteLength }],
    };
    const text = new TextEncoder().encode(JSON.stringify(document)), spaces = new Uint8Array(-text.length & 3).fill(32);
    const head = text.length + spaces.length, body = document.buffers[0].byteLength;
    const words = (...values) => Uint32Array.from(values); // glTF and every browser's machine are little-endian
    const header = words(0x46546c67, 2, 28 + head + body, head, 0x4e4f534a);
    return new Blob([header, text, spaces, words(body, 0x004e4942), vertices, triangles], { type: "model/gltf-binary" });
  }

  function download(kind) {
    const entry = meshes[chosen], mesh = decode(entry), link = document.createElement("a");
    if (!mesh.triangles.length) return;
    const name = (entry.file || entry.title).normalize().replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "").slice(0, 80);
    const made = entry.glb ? new Blob([bytes(entry.glb)], { type: "model/gltf-binary" }) : null;
    link.href = URL.createObjectURL(kind === "obj" ? objFile(mesh) : made || glbFile(mesh));
    link.download = `${name || `mesh-${chosen + 1}`}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // ---- Light and dark

  const stored = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("theme", value); } catch { /* not for local files in some browsers */ } } };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = (value) => { document.documentElement.dataset.theme = value; };
  system.addEventListener("change", () => theme(stored.get() || (system.matches ? "dark" : "light")));

  function switchTheme() {
    theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    stored.set(document.documentElement.dataset.theme);
  }

  // ---- Within another page, which tells what to show: {meshes}, and whether it is the `first` or `last` of some mesh

  let turned = false; // since the first of what is shown now
  controls.addEventListener("start", () => { turned = true; });

  function receive({ data, source }) {
    if (source !== window.parent || !Array.isArray(data?.meshes)) return;
    const before = meshes, fresh = data.first || before.length !== data.meshes.length;
    meshes = data.meshes; shown = [...meshes.keys()];
    if (fresh || !meshes.length) chosen = 0;
    if (data.first) turned = false;
    document.body.classList.toggle("single", meshes.length < 2);
    if (fresh) $("cards").replaceChildren(...shown.map(card));
    else for (const button of $("cards").children) { label(button); if (meshes.length > 1) thumbnail(button); }
    if (meshes.length) choose(data.last && !turned ? 0 : Math.min(chosen, meshes.length - 1), turned || !(data.first || data.last));
    else clear();
  }

  function clear() {
    if (main.model) { main.scene.remove(main.model.group); main.model.dispose(); main.model = null; }
    for (const name of ["title", "caption"]) $(name).textContent = "";
    $("facts").replaceChildren(); $("trouble").textContent = live; $("trouble").hidden = false;
    resetView(); markCard();
  }

  // ---- Begin

  const toggle = (name) => { options[name] = !options[name]; applyOptions(); };
  const actions = {
    previous: () => step(-1), next: () => step(1), theme: switchTheme, reset: resetView,
    obj: () => download("obj"), glb: () => download("glb"),
  };
  for (const name of Object.keys(options)) actions[name] = () => toggle(name);
  for (const name of Object.keys(actions)) $(name).addEventListener("click", actions[name]);

  const keys = {
    ArrowLeft: "previous", ArrowUp: "previous", ArrowRight: "next", ArrowDown: "next",
    w: "wireframe", s: "smooth", b: "backs", r: "rotate", 0: "reset", t: "theme", o: "obj", g: "glb",
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.id === "search") return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action) { event.preventDefault(); actions[action](); }
  });

  if (live) {
    document.body.classList.add("live", "single");
    addEventListener("message", receive);
    system.addEventListener("change", () => theme(system.matches ? "dark" : "light"));
  }
  theme((!live && stored.get()) || (system.matches ? "dark" : "light"));
  $("count").textContent = plural(meshes.length, "mesh", "meshes");
  $("search").hidden = meshes.length < 9;
  $("search").addEventListener("input", search);
  $("view").addEventListener("dblclick", resetView);
  $("cards").append(...meshes.keys().map(card));
  new ResizeObserver(resize).observe($("stage"));
  resize(); applyOptions();
  if (meshes.length) choose(Math.min(Math.max(parseInt(location.hash.slice(1), 10) || 1, 1), meshes.length) - 1);
  else clear();
  if (live) window.parent.postMessage("ready", location.origin);
  tick();
})();
