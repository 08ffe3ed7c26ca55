"use strict";
// Hundreds of thousands of points on a plane: drawn pixel by pixel, moved, zoomed, and found.

const CELLS = 256; // of the grid over the square in which a point is looked up, along each side

class PointMap {
  // box: the element to fill. points: Float32Array [2 n], in [-1, 1].
  // told: functions hover(row or -1, event), click(row).
  constructor(box, points, told) {
    this.box = box;
    this.points = points;
    this.count = points.length / 2;
    this.told = told;
    this.colours = new Uint32Array(this.count);
    this.dim = null; // Uint8Array [n]: which points stand back
    this.marks = []; // {row, size, fill} drawn above the points
    this.canvas = this.addCanvas("points");
    this.above = this.addCanvas("marks");
    this.makeGrid();
    this.home();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(box);
    this.resize();
  }

  addCanvas(name) {
    const canvas = document.createElement("canvas");
    canvas.className = name;
    this.box.append(canvas);
    return canvas;
  }

  home() {
    this.x = 0;
    this.y = 0;
    this.zoom = 0.94;
  }

  resize() {
    const dense = Math.min(window.devicePixelRatio || 1, 2);
    this.dense = dense;
    this.width = Math.max(1, Math.round(this.box.clientWidth * dense));
    this.height = Math.max(1, Math.round(this.box.clientHeight * dense));
    for (const canvas of [this.canvas, this.above]) {
      canvas.width = this.width;
      canvas.height = this.height;
    }
    this.image = new ImageData(this.width, this.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.draw();
  }

  get scale() {
    return (Math.min(this.width, this.height) / 2) * this.zoom;
  }

  // Radius of a point in pixels of the canvas.
  get radius() {
    const plain = this.count < 2000 ? 4 : this.count < 20000 ? 3 : this.count < 80000 ? 2 : 1.5;
    return Math.min(6, plain * Math.pow(Math.max(1, this.zoom), 0.35)) * this.dense;
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      const begun = performance.now();
      this.drawPoints();
      this.drawMarks();
      this.drawn = (this.drawn || 0) + 1;
      this.drawMs = performance.now() - begun;
    });
  }

  drawPoints() {
    this.pixels.fill(0);
    const disc = this.disc(this.radius);
    if (this.dim) {
      this.drawSome(disc, 1);
      this.drawSome(disc, 0);
    } else this.drawSome(disc, -1);
    this.canvas.getContext("2d").putImageData(this.image, 0, 0);
  }

  // The pixels of a point: offsets of those inside, and of those at its edge with their share.
  disc(radius) {
    const inside = [], edge = [], reach = Math.ceil(radius);
    for (let y = -reach; y <= reach; y++)
      for (let x = -reach; x <= reach; x++) {
        const share = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
        if (share > 0.95) inside.push(y * this.width + x);
        else if (share > 0.15) edge.push([y * this.width + x, share]);
      }
    return { reach, inside: Int32Array.from(inside), edge };
  }

  // back: 1 draws the points that stand back, 0 the others, -1 all.
  drawSome(disc, back) {
    const { points, pixels, colours, dim, width, height } = this;
    const scale = this.scale, left = width / 2 - this.x * scale, top = height / 2 + this.y * scale;
    const { reach, inside } = disc;
    const soft = this.count <= 50000 ? disc.edge : [];
    for (let n = 0; n < this.count; n++) {
      if (back >= 0 && dim[n] !== back) continue;
      const x = (left + points[2 * n] * scale) | 0, y = (top - points[2 * n + 1] * scale) | 0;
      if (x < reach || y < reach || x >= width - reach || y >= height - reach) continue;
      let colour = colours[n];
      if (back === 1) colour = (colour & 0x00ffffff) | 0x30000000;
      const at = y * width + x;
      for (let k = 0; k < inside.length; k++) pixels[at + inside[k]] = colour;
      for (const [offset, share] of soft) {
        // what is there already, if it covers more, stays
        const alpha = ((colour >>> 24) * share) | 0;
        if (pixels[at + offset] >>> 24 < alpha)
          pixels[at + offset] = ((colour & 0x00ffffff) | (alpha << 24)) >>> 0;
      }
    }
  }

  drawMarks() {
    const context = this.above.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    const ring = getComputedStyle(document.body).getPropertyValue("--mark");
    for (const { row, size } of this.marks) {
      const [x, y] = this.place(row);
      context.beginPath();
      context.arc(x, y, size * this.dense, 0, 7);
      context.lineWidth = 2 * this.dense;
      context.strokeStyle = ring;
      context.stroke();
    }
  }

  // Where a row is drawn, in pixels of the canvas.
  place(row) {
    const scale = this.scale;
    return [
      this.width / 2 + (this.points[2 * row] - this.x) * scale,
      this.height / 2 - (this.points[2 * row + 1] - this.y) * scale,
    ];
  }

  // Rows sorted by the cell that they lie in.
  makeGrid() {
    const cell = new Uint32Array(this.count), first = new Uint32Array(CELLS * CELLS + 1);
    for (let n = 0; n < this.count; n++) {
      cell[n] = this.cell(this.points[2 * n + 1]) * CELLS + this.cell(this.points[2 * n]);
      first[cell[n] + 1]++;
    }
    for (let n = 0; n < CELLS * CELLS; n++) first[n + 1] += first[n];
    const next = first.slice(), rows = new Uint32Array(this.count);
    for (let n = 0; n < this.count; n++) rows[next[cell[n]]++] = n;
    this.first = first;
    this.rows = rows;
  }

  cell(value) {
    return Math.min(CELLS - 1, Math.max(0, Math.floor(((value + 1) / 2) * CELLS)));
  }

  // The row nearest to a point of the window, -1 where none is within a few pixels.
  rowAt(clientX, clientY) {
    const edge = this.box.getBoundingClientRect(), scale = this.scale / this.dense;
    const x = this.x + (clientX - edge.left - edge.width / 2) / scale;
    const y = this.y - (clientY - edge.top - edge.height / 2) / scale;
    const reach = (this.radius / this.dense + 5) / scale;
    let best = -1, least = reach * reach;
    for (let j = this.cell(y - reach); j <= this.cell(y + reach); j++)
      for (let i = this.cell(x - reach); i <= this.cell(x + reach); i++) {
        const cell = j * CELLS + i;
        for (let k = this.first[cell]; k < this.first[cell + 1]; k++) {
          const row = this.rows[k];
          const away = (this.points[2 * row] - x) ** 2 + (this.points[2 * row + 1] - y) ** 2;
          if (away <= least && !(this.dim && this.dim[row])) [best, least] = [row, away];
        }
      }
    return best;
  }

  listen() {
    const held = new Map(); // pointers that are down
    let moved = 0, apart = 0;
    const target = this.above;
    target.addEventListener("pointerdown", (event) => {
      target.setPointerCapture(event.pointerId);
      held.set(event.pointerId, event);
      if (held.size === 1) moved = 0;
    });
    target.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (!before) return this.told.hover(this.rowAt(event.clientX, event.clientY), event);
      const right = event.clientX - before.clientX, down = event.clientY - before.clientY;
      moved += Math.abs(right) + Math.abs(down);
      held.set(event.pointerId, event);
      const scale = this.scale / this.dense;
      this.x -= right / scale / held.size;
      this.y += down / scale / held.size;
      if (held.size === 2) {
        const [one, other] = [...held.values()];
        const now = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
        if (apart) this.zoomBy(now / apart, (one.clientX + other.clientX) / 2,
                               (one.clientY + other.clientY) / 2);
        apart = now;
      }
      this.told.hover(-1, event);
      this.draw();
    });
    const up = (event) => {
      if (!held.delete(event.pointerId)) return;
      apart = 0;
      if (event.type === "pointerup" && moved < 5) {
        const row = this.rowAt(event.clientX, event.clientY);
        if (row >= 0) this.told.click(row);
      }
    };
    target.addEventListener("pointerup", up);
    target.addEventListener("pointercancel", up);
    target.addEventListener("pointerleave", (event) => this.told.hover(-1, event));
    target.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * 0.0015), event.clientX, event.clientY);
    }, { passive: false });
    target.addEventListener("dblclick", () => {
      this.home();
      this.draw();
    });
  }

  // What lies under a point of the window stays there.
  zoomBy(factor, clientX, clientY) {
    const edge = this.box.getBoundingClientRect();
    const right = clientX - edge.left - edge.width / 2, down = clientY - edge.top - edge.height / 2;
    const before = this.scale / this.dense;
    this.zoom = Math.min(400, Math.max(0.5, this.zoom * factor));
    const after = this.scale / this.dense;
    this.x += right / before - right / after;
    this.y -= down / before - down / after;
    this.draw();
  }
}
