// Where a block stands: row-major by id in a power-of-two number of columns, the same for every step of a run.

export const GUTTER = 44, HEADER = 18; // pixels for the ids at rows and columns
const LARGEST = 56, TALLEST = 440;

// Above this many blocks one mark stands for `per` of them.
const MOST_MARKS = 65536;

export function layout(numBlocks, width) {
  const room = Math.max(120, width - GUTTER);
  const per = 2 ** Math.max(0, Math.ceil(Math.log2(numBlocks / MOST_MARKS)));
  return { ...grid(Math.ceil(numBlocks / per), room), per };
}

function grid(numBlocks, room) {
  const fits = [];
  for (let columns = 1; columns <= 1024 && columns < 2 * numBlocks; columns *= 2) {
    const rows = Math.ceil(numBlocks / columns), across = Math.floor(room / columns);
    const cell = Math.min(LARGEST, across, Math.max(Math.floor(TALLEST / rows), Math.min(3, across)));
    if (cell >= 1) fits.push({ columns, rows, cell });
  }
  // The widest picture whose cells are nearly as large as they can be: a screen is wider than high.
  const largest = Math.max(...fits.map((fit) => fit.cell));
  const best = fits.filter((fit) => fit.cell >= 0.8 * largest).pop();
  return { ...best, width: GUTTER + best.columns * best.cell + 1, height: HEADER + best.rows * best.cell + 1 };
}

export function place(grid, block) {
  const mark = Math.floor(block / grid.per);
  return [GUTTER + (mark % grid.columns) * grid.cell, HEADER + Math.floor(mark / grid.columns) * grid.cell];
}

export function blockAt(grid, numBlocks, x, y) {
  const column = Math.floor((x - GUTTER) / grid.cell), row = Math.floor((y - HEADER) / grid.cell);
  if (column < 0 || column >= grid.columns || row < 0) return -1;
  const block = (row * grid.columns + column) * grid.per;
  return block < numBlocks ? block : -1;
}

// Token slots inside a large cell: a grid as square as the block size allows.
export function slots(blockSize) {
  const columns = 2 ** Math.ceil(Math.log2(blockSize) / 2);
  return { columns, rows: Math.ceil(blockSize / columns) };
}
