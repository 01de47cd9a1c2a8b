//! A tar writer that does what it is told, sensible or not.

use std::io::{self, Write};

/// One entry to be written; made by [`entry`] and changed by its methods.
#[derive(Debug, Clone)]
pub struct TestEntry {
    path: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: String,
    link: Vec<u8>,
    device: (u32, u32),
    size: u64,
    content: Vec<u8>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An entry of type `kind` (`b'0'` for a file, `b'5'` for a folder and so on) with mode 0644, or 0755 for folders.
pub fn entry(kind: u8, path: impl AsRef<[u8]>) -> TestEntry {
    TestEntry {
        path: path.as_ref().to_vec(),
        kind,
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: "1700000000".to_owned(),
        link: Vec::new(),
        device: (0, 0),
        size: 0,
        content: Vec::new(),
        records: Vec::new(),
    }
}

impl TestEntry {
    /// Permission bits.
    pub fn mode(mut self, mode: u32) -> TestEntry {
        self.mode = mode;
        self
    }

    /// User and group.
    pub fn owner(mut self, uid: u64, gid: u64) -> TestEntry {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Seconds since 1970, with a fraction if need be.
    pub fn mtime(mut self, mtime: &str) -> TestEntry {
        mtime.clone_into(&mut self.mtime);
        self
    }

    /// Where a link leads.
    pub fn link(mut self, target: impl AsRef<[u8]>) -> TestEntry {
        self.link = target.as_ref().to_vec();
        self
    }

    /// A device's number.
    pub fn device(mut self, major: u32, minor: u32) -> TestEntry {
        self.device = (major, minor);
        self
    }

    /// The data that follows, and its size.
    pub fn content(mut self, content: impl Into<Vec<u8>>) -> TestEntry {
        self.content = content.into();
        self.size = self.content.len() as u64;
        self
    }

    /// A size that need not be that of the data.
    pub fn size(mut self, size: u64) -> TestEntry {
        self.size = size;
        self
    }

    /// An extended attribute.
    pub fn xattr(self, name: &str, value: &[u8]) -> TestEntry {
        self.record(&format!("SCHILY.xattr.{name}"), value)
    }

    /// A record of the extended header.
    pub fn record(mut self, key: &str, value: &[u8]) -> TestEntry {
        self.records.push((key.as_bytes().to_vec(), value.to_vec()));
        self
    }

    /// A sparse file of `size` bytes in GNU's format 1.0, with `extents` of offset and content.
    pub fn sparse(self, size: u64, extents: &[(u64, Vec<u8>)]) -> TestEntry {
        let mut map = format!("{}\n", extents.len());
        for (offset, content) in extents {
            map.push_str(&format!("{offset}\n{}\n", content.len()));
        }
        let mut stored = map.into_bytes();
        stored.resize(stored.len().next_multiple_of(512), 0);
        extents.iter().for_each(|(_, content)| stored.extend_from_slice(content));
        let name = self.path.clone();
        self.content(stored)
            .record("GNU.sparse.major", b"1")
            .record("GNU.sparse.minor", b"0")
            .record("GNU.sparse.name", &name)
            .record("GNU.sparse.realsize", size.to_string().as_bytes())
    }
}

/// Writes a tar stream.
pub struct TestWriter<W> {
    output: W,
}

impl<W: Write> TestWriter<W> {
    /// Starts a stream.
    pub fn new(output: W) -> TestWriter<W> {
        TestWriter { output }
    }

    /// Writes one entry, with an extended header where the fields are too small.
    pub fn push(&mut self, entry: &TestEntry) -> io::Result<()> {
        let mut records = entry.records.clone();
        let mut record = |key: &str, value: &[u8]| records.push((key.as_bytes().to_vec(), value.to_vec()));
        if entry.path.len() > 100 {
            record("path", &entry.path);
        }
        if entry.link.len() > 100 {
            record("linkpath", &entry.link);
        }
        if entry.uid > 0o7_777_777 {
            record("uid", entry.uid.to_string().as_bytes());
        }
        if entry.gid > 0o7_777_777 {
            record("gid", entry.gid.to_string().as_bytes());
        }
        if entry.mtime.parse::<u64>().is_err() {
            record("mtime", entry.mtime.as_bytes());
        }
        if entry.size >= 8 << 30 {
            record("size", entry.size.to_string().as_bytes());
        }
        if !records.is_empty() {
            let mut body = Vec::new();
            records.iter().for_each(|(key, value)| append_record(&mut body, key, value));
            let header = self::entry(b'x', "PaxHeader").content(body.clone());
            self.output.write_all(&block(&header))?;
            self.data(&body)?;
        }
        self.output.write_all(&block(entry))?;
        self.data(&entry.content)
    }

    /// Writes a regular file.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.push(&entry(b'0', path).content(content))
    }

    /// Writes anything at all.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.output.write_all(&[0; 512][..bytes.len().wrapping_neg() % 512])
    }

    /// Writes the end marker.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 1024])?;
        self.output.flush()?;
        Ok(self.output)
    }
}

fn append_record(body: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    body.extend_from_slice(format!("{length} ").as_bytes());
    body.extend_from_slice(&[key, b"=", value, b"\n"].concat());
}

fn block(entry: &TestEntry) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8], room: usize| {
        let bytes = &bytes[..bytes.len().min(room)];
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let octal = |value: u64, digits: usize| {
        format!("{:0digits$o}", if value >> (3 * digits) > 0 { 0 } else { value })
    };
    put(0, &entry.path, 100);
    put(100, octal(u64::from(entry.mode), 7).as_bytes(), 7);
    put(108, octal(entry.uid, 7).as_bytes(), 7);
    put(116, octal(entry.gid, 7).as_bytes(), 7);
    put(124, octal(entry.size, 11).as_bytes(), 11);
    put(136, octal(entry.mtime.parse().unwrap_or(0), 11).as_bytes(), 11);
    put(148, b"        ", 8);
    put(156, &[entry.kind], 1);
    put(157, &entry.link, 100);
    put(257, b"ustar\x0000", 8);
    put(329, octal(u64::from(entry.device.0), 7).as_bytes(), 7);
    put(337, octal(u64::from(entry.device.1), 7).as_bytes(), 7);
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
