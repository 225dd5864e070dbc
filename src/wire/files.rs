//! FILES, which is a whole database, read piece by piece: it is never in memory as one. [protocol 6]

use super::Header;
use super::cursor::Malformed;
use super::response::FILES;

/// The longest name of a file that makes sense; the engine's own buffer for it.
const NAME: usize = 1024;

/// Takes the body of FILES as it comes.
#[derive(Debug)]
pub(crate) struct Files {
    /// How many begin behind the present one; None until the body has said so.
    files: Option<u64>,
    state: State,
    /// The bytes of a word of which the rest is to come.
    word: Vec<u8>,
    name: Vec<u8>,
    position: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Count,
    Name,
    Size,
    Content(u64),
}

/// What the bytes mean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A file begins.
    File { name: String, size: u64 },
    /// The next bytes of the file that began last.
    Content(&'a [u8]),
}

impl Files {
    /// None if the header announces another response.
    pub(crate) fn new(header: Header) -> Option<Self> {
        (header.kind == FILES && header.schema == 0).then(|| Self {
            files: None,
            state: State::Count,
            word: Vec::with_capacity(8),
            name: Vec::new(),
            position: 0,
        })
    }

    /// The next piece in `input`, which loses what was read of it; None if more bytes are needed.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Malformed> {
        while !input.is_empty() {
            if let State::Content(left) = self.state {
                if let Some(content) = self.content(input, left) {
                    return Ok(Some(Piece::Content(content)));
                }
                continue;
            }
            if let Some(word) = self.take_word(input)
                && let Some(piece) = self.field(word)?
            {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Whether all files that were announced have come.
    pub(crate) fn is_complete(&self) -> bool {
        self.files == Some(0)
            && matches!(self.state, State::Name | State::Content(0))
            && self.name.is_empty()
            && self.word.is_empty()
    }

    fn content<'a>(&mut self, input: &mut &'a [u8], left: u64) -> Option<&'a [u8]> {
        if left == 0 {
            self.state = State::Name;
            return None;
        }
        let size = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let (content, rest) = input.split_at(size);
        *input = rest;
        self.position += size;
        self.state = State::Content(left - size as u64);
        Some(content)
    }

    fn take_word(&mut self, input: &mut &[u8]) -> Option<[u8; 8]> {
        let (taken, rest) = input.split_at(input.len().min(8 - self.word.len()));
        *input = rest;
        self.position += taken.len();
        self.word.extend_from_slice(taken);
        let word = self.word.as_slice().try_into().ok()?;
        self.word.clear();
        Some(word)
    }

    fn field(&mut self, word: [u8; 8]) -> Result<Option<Piece<'static>>, Malformed> {
        match self.state {
            State::Count => {
                self.files = Some(u64::from_le_bytes(word));
                self.state = State::Name;
            }
            State::Name if self.name.is_empty() && self.files == Some(0) => {
                return Err(self.malformed("bytes behind the last file"));
            }
            State::Name => {
                let end = memchr::memchr(0, &word);
                self.name.extend_from_slice(&word[..end.unwrap_or(8)]);
                if end.is_some() {
                    self.state = State::Size;
                } else if self.name.len() > NAME {
                    return Err(self.malformed("file name"));
                }
            }
            State::Size | State::Content(_) => return self.begin(u64::from_le_bytes(word)).map(Some),
        }
        Ok(None)
    }

    fn begin(&mut self, size: u64) -> Result<Piece<'static>, Malformed> {
        // Not padded: a database has whole pages, and the next entry must start on a word.
        if !size.is_multiple_of(8) {
            return Err(self.malformed("file size"));
        }
        let name = String::from_utf8_lossy(&std::mem::take(&mut self.name)).into_owned();
        self.files = self.files.map(|files| files.saturating_sub(1));
        self.state = State::Content(size);
        Ok(Piece::File { name, size })
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed {
            what,
            at: self.position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        words: 0,
        kind: FILES,
        schema: 0,
    };

    fn body(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut body = (files.len() as u64).to_le_bytes().to_vec();
        for (name, content) in files {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.resize(body.len().next_multiple_of(8), 0);
            body.extend_from_slice(&(content.len() as u64).to_le_bytes());
            body.extend_from_slice(content);
        }
        body
    }

    type Found = Vec<(String, Vec<u8>)>;

    /// The files as they come out when the body comes in steps of so many bytes, and whether they are all.
    fn read(body: &[u8], step: usize) -> Result<(Found, bool), Malformed> {
        let mut files = Files::new(HEADER).unwrap();
        let mut found = Found::new();
        for mut input in body.chunks(step) {
            while let Some(piece) = files.next(&mut input)? {
                match piece {
                    Piece::File { name, size } => found.push((name, Vec::with_capacity(size as usize))),
                    Piece::Content(bytes) => found.last_mut().unwrap().1.extend_from_slice(bytes),
                }
            }
        }
        Ok((found, files.is_complete()))
    }

    #[test]
    fn every_cut_gives_the_same_files() {
        let whole: Vec<u8> = (0..200).collect();
        let list = [
            ("app.db", whole.as_slice()),
            ("app.db-wal", &[]),
            ("a-name-of-8", &whole[..16]),
        ];
        let body = body(&list);
        for step in 1..=body.len() {
            let (found, complete) = read(&body, step).unwrap();
            assert!(complete, "in steps of {step}");
            let found: Vec<_> = found
                .iter()
                .map(|(name, data)| (name.as_str(), data.as_slice()))
                .collect();
            assert_eq!(found, list, "in steps of {step}");
        }
        for cut in 0..body.len() {
            assert!(!read(&body[..cut], 7).unwrap().1, "cut at {cut}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let fine = body(&[("a", &[0; 16])]);
        assert!(read(&[fine.as_slice(), &[0; 8]].concat(), 8).is_err());
        let mut odd = fine.clone();
        odd[16] = 15;
        assert!(read(&odd, 8).is_err());
        let mut endless = 1_u64.to_le_bytes().to_vec();
        endless.resize(4096, b'x');
        assert!(read(&endless, 64).is_err());
        assert!(Files::new(Header { kind: 0, ..HEADER }).is_none());
    }
}
