// Draws with WebGL2: every Gaussian is a rectangle that is added to a float target, which is then shown.

/** A float format that the Gaussians can be added up in, or an error that says what is missing. */
function sumFormat(gl) {
  const full = gl.getExtension("EXT_color_buffer_float");
  if (full && gl.getExtension("EXT_float_blend")) return { format: gl.RGBA32F, bits: 32 };
  if (full || gl.getExtension("EXT_color_buffer_half_float")) return { format: gl.RGBA16F, bits: 16 };
  throw new Error("WebGL2 here has no float targets");
}

/** Whether the processor plays the GPU, by the name of the device. */
function inSoftware(gl) {
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
}

function makeProgram(gl, vertex, fragment, attributes = []) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  attributes.forEach((name, i) => gl.bindAttribLocation(program, i, name));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(`WebGL2: ${gl.getProgramInfoLog(program)}`);
  const places = new Map();
  return {
    program,
    at: name => {
      if (!places.has(name)) places.set(name, gl.getUniformLocation(program, name));
      return places.get(name);
    },
  };
}

const ATTRIBUTES = [["mean", 2], ["deviations", 2], ["angle", 1], ["color", 4]];
const FLOATS = 9;

/** [N, 9]: the attributes side by side. */
function attributeTable(model) {
  const table = new Float32Array(FLOATS * model.count);
  const columns = [model.x, model.y, model.sd0, model.sd1, model.rotation, ...model.colors];
  columns.forEach((column, k) => { for (let i = 0; i < model.count; i++) table[FLOATS * i + k] = column[i]; });
  return table;
}

class WebGLRenderer {
  /** Throws an Error that says what is missing. `lost` is called when the browser takes the context away. WebGL2 without
   * a GPU is a missing one, for the other renderer is faster, unless `slow` allows it. */
  constructor(model, shaders, lost, slow) {
    if (model.blend !== "sum") throw new Error("WebGL2 is used for blend sum alone");
    this.model = model;
    this.canvas = document.createElement("canvas");
    const gl = this.canvas.getContext("webgl2", { antialias: false, depth: false });
    if (!gl) throw new Error("no WebGL2 here");
    if (!slow && inSoftware(gl)) throw new Error("WebGL2 has no GPU here");
    this.gl = gl;
    const { format, bits } = sumFormat(gl);
    this.format = format;
    this.name = `by WebGL2, summed in ${bits}-bit floats`;
    this.splats = makeProgram(gl, shaders["splat.vert"], shaders["splat.frag"], ATTRIBUTES.map(([name]) => name));
    this.screen = makeProgram(gl, shaders["screen.vert"], shaders["screen.frag"]);
    this.upload();
    this.nothing = gl.createVertexArray();
    this.sums = gl.createTexture();
    this.target = gl.createFramebuffer();
    this.resize(1, 1);
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE)
      throw new Error("WebGL2 here cannot draw into floats");
    this.ended = event => { event.preventDefault(); lost(); };
    this.canvas.addEventListener("webglcontextlost", this.ended);
  }

  upload() {
    const gl = this.gl;
    this.instances = gl.createVertexArray();
    gl.bindVertexArray(this.instances);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, attributeTable(this.model), gl.STATIC_DRAW);
    let offset = 0;
    ATTRIBUTES.forEach(([, size], i) => {
      gl.enableVertexAttribArray(i);
      gl.vertexAttribPointer(i, size, gl.FLOAT, false, 4 * FLOATS, 4 * offset);
      gl.vertexAttribDivisor(i, 1);
      offset += size;
    });
  }

  resize(width, height) {
    const gl = this.gl;
    this.canvas.width = width;
    this.canvas.height = height;
    gl.bindTexture(gl.TEXTURE_2D, this.sums);
    gl.texImage2D(gl.TEXTURE_2D, 0, this.format, width, height, 0, gl.RGBA, gl.FLOAT, null);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.sums, 0);
  }

  draw(view, count) {
    const { gl, model, splats, screen } = this, { width, height } = this.canvas;
    gl.viewport(0, 0, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
    gl.useProgram(splats.program);
    const high = [Math.fround(view.x), Math.fround(view.y)];
    gl.uniform2f(splats.at("origin_high"), high[0], high[1]);
    gl.uniform2f(splats.at("origin_low"), view.x - high[0], view.y - high[1]);
    gl.uniform2f(splats.at("size"), width, height);
    gl.uniform1f(splats.at("zoom"), view.zoom);
    gl.uniform1f(splats.at("dilation"), model.dilation);
    gl.uniform1f(splats.at("cutoff"), model.cutoff);
    gl.bindVertexArray(this.instances);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);

    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.BLEND);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(screen.program);
    const [left, top, right, bottom] = frame(model, view);
    gl.uniform2f(screen.at("size"), width, height);
    gl.uniform2f(screen.at("picture_low"), left, top);
    gl.uniform2f(screen.at("picture_high"), right, bottom);
    gl.uniform1i(screen.at("channels"), model.channels);
    gl.uniform3f(screen.at("squares"), SQUARES.light, SQUARES.dark, SQUARES.side);
    gl.bindVertexArray(this.nothing);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  finish() {}

  dispose() {
    this.canvas.removeEventListener("webglcontextlost", this.ended);
  }
}
