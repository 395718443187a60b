// What the viewer uses of three.js; README.txt says how three.min.js is made from this.
export {
  BackSide, BufferAttribute, BufferGeometry, CanvasTexture, Color, DirectionalLight, FrontSide, Group, HemisphereLight,
  LineBasicMaterial, LineSegments, Mesh, MeshBasicMaterial, MeshLambertMaterial, PerspectiveCamera, PlaneGeometry, Scene,
  Vector3, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
