//! A text that grows piece by piece, as rows need it: many pieces, most of them of a few bytes.

/// The bytes up to `len`; what the vector holds behind them is room, so that a piece is written without a look at the
/// capacity and without a call.
#[derive(Default)]
pub(super) struct Text {
    bytes: Vec<u8>,
    len: usize,
    /// There was no memory for all of it; what is here means nothing.
    cut: bool,
}

/// So much room is made at a time: what is filled with zeros first should still be in the cache when it is written.
const STEP: usize = 16 << 10;

/// Past `LONG` bytes a text takes what the allocator has for large buffers, room without copies and in huge pages: the
/// fourth part of one in small pages costs as much.
const LONG: usize = 256 << 10;
const LARGE: usize = 1 << 20;

/// What stands behind the last row, and the NUL that C wants there.
const END: usize = 16;

impl Text {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn from(start: &[u8]) -> Self {
        let mut text = Self::default();
        text.put(start);
        text
    }

    /// Expects about so many bytes in all.
    pub(super) fn expect(&mut self, size: usize) {
        // Without the memory it is made in steps.
        let _ = self.bytes.try_reserve(size);
    }

    /// Whether there is memory for so many bytes more, and for an end.
    pub(super) fn can_take(&mut self, more: usize) -> bool {
        let missing = (self.len + more + END).saturating_sub(self.bytes.len());
        let short = more < LARGE && self.bytes.capacity() < LARGE;
        short || self.bytes.try_reserve(missing).is_ok() || self.bytes.try_reserve_exact(missing).is_ok()
    }

    #[inline]
    pub(super) fn put(&mut self, piece: &[u8]) {
        copy(self.next(piece.len()), piece);
    }

    #[inline]
    pub(super) fn push(&mut self, byte: u8) {
        self.next(1)[0] = byte;
    }

    /// The next `size` bytes, to be overwritten.
    #[inline]
    pub(super) fn next(&mut self, size: usize) -> &mut [u8] {
        if self.len + size > self.bytes.len() {
            self.make_room(size);
        }
        let (start, end) = (self.len, self.len + size);
        self.len = end;
        &mut self.bytes[start..end]
    }

    #[cold]
    #[inline(never)]
    fn make_room(&mut self, piece: usize) {
        let mut end = self.len + piece;
        if end > self.bytes.capacity() {
            let (size, had) = (if end > LONG { end.max(LARGE) } else { end }, self.bytes.len());
            if self.bytes.try_reserve(size - had).is_err() && self.bytes.try_reserve_exact(end - had).is_err() {
                // The rest goes over what is there, which `can_take` has made larger than any piece.
                (self.cut, self.len, end) = (true, 0, piece);
            }
        }
        let room = (end + STEP).min(self.bytes.capacity()).max(end).max(self.bytes.len());
        self.bytes.resize(room, 0);
    }

    pub(super) fn cut(&mut self) {
        self.cut = true;
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut u8> {
        self.bytes[..self.len].first_mut()
    }

    pub(super) fn into_vec(mut self) -> Vec<u8> {
        self.bytes.truncate(self.len);
        self.bytes
    }
}

/// `to.copy_from_slice(from)`, without a call for the sizes that most values have.
#[inline(always)]
pub(super) fn copy(to: &mut [u8], from: &[u8]) {
    match from.len() {
        17.. => to.copy_from_slice(from),
        8.. => ends::<8>(to, from),
        4.. => ends::<4>(to, from),
        2.. => ends::<2>(to, from),
        1 => to[0] = from[0],
        0 => {}
    }
}

/// The first N and the last N bytes, which overlap where there are fewer than twice as many.
#[inline(always)]
fn ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(start), Some(end)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
        let at = to.len() - N;
        to[..N].copy_from_slice(start);
        to[at..].copy_from_slice(end);
    }
}
