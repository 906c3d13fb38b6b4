// Which tiles of which keys a worker reads: the plan's records, and the walk over them.
//
// A row's context is cut into tiles of TILE tokens. All tiles of all pairs (head, row) stand in one line, by head, then
// row, then tile; the plan cuts the line into one equal share a worker. With heads outermost all heads are read at any
// time, and near the same tokens, which a block of the cache holds side by side. A worker is a block of threads; a head
// is a key/value head, or a part of its query heads where they are more than a block takes at once. A pair that no cut
// goes through is written by its one worker; of any other pair each worker writes a part, and the last to arrive merges
// them.
#pragma once

struct Share {
    int row, head, tile;  // where the worker's line begins; `tile` counts from the start of the row
    int tiles;            // its length; 0: nothing to do
    int first_worker;     // the worker in which the share's first pair begins
    int last_worker;      // the worker in which the share's last pair ends
    int length;           // context length of `row`
    int unused;           // a record is two 16-byte loads
};

// The plan in memory, all int32: shares [workers], arrivals [workers], lengths [rows].
struct Plan {
    Share* shares;
    unsigned* arrivals;  // parts that have arrived of the split pair that begins in a worker; 0 between launches
    int* lengths;        // context lengths; 0: the output is zeros, -1: it is left as it is

    __device__ Plan(int* memory, int workers)
        : shares(reinterpret_cast<Share*>(memory)),
          arrivals(reinterpret_cast<unsigned*>(memory + 8 * workers)),
          lengths(memory + 9 * workers) {}
};

// Where the keys that a query at position length - 1 sees begin, and the tiles that hold them.
struct Span {
    int length, oldest, end;

    // A window of 0 is none.
    Span() = default;
    __device__ Span(int length, int window)
        : length(length),
          oldest(window > 0 && length > window ? length - window : 0),
          end((length + TILE - 1) / TILE) {}
    __device__ int first() const { return oldest / TILE; }
    __device__ int tiles() const { return end - first(); }
};

// A place in the line of tiles.
struct Cursor {
    const int* lengths;
    int rows, window;
    int row, head, tile;
    Span span;

    Cursor() = default;
    __device__ Cursor(const Share& share, const int* lengths, int rows, int window)
        : lengths(lengths),
          rows(rows),
          window(window),
          row(share.row),
          head(share.head),
          tile(share.tile),
          span(share.length, window) {}

    // To the first tile of the next pair. There must be one.
    __device__ void next_pair() {
        do {
            if (++row == rows) row = 0, head++;
            span = Span(lengths[row], window);
        } while (span.tiles() == 0);
        tile = span.first();
    }
    // `by` tiles on. There must be so many.
    __device__ void advance(int by) {
        tile += by;
        while (tile >= span.end) {
            const int over = tile - span.end;
            next_pair();
            tile += over;
        }
    }
};
