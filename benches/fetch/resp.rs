//! The lean client's side of Redis's protocol: one loopback connection, commands written straight from the request, replies read straight
//! out of the receive buffer, with no allocation per value. The stock client does not use it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use larder_benches::Outcome;

/// Bytes asked for in one read of the socket.
const READ_BYTES: usize = 256 << 10;

/// One connection. Commands gather in a buffer until [`send`](Connection::send); replies are read in their order.
pub(crate) struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// What of `input` was received and not yet read.
    start: usize,
    end: usize,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Outcome<Connection> {
        stream.set_nodelay(true)?;
        Ok(Connection { stream, out: Vec::new(), input: vec![0; READ_BYTES], start: 0, end: 0 })
    }

    /// Begins a command of `parts` parts.
    pub(crate) fn begin(&mut self, parts: usize) {
        self.header(b'*', parts);
    }

    /// Adds a part of the command.
    pub(crate) fn part(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Adds a part that consists of a fixed beginning and a name.
    pub(crate) fn key(&mut self, prefix: &[u8], name: &str) {
        self.header(b'$', prefix.len() + name.len());
        self.out.extend_from_slice(prefix);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn header(&mut self, kind: u8, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.out.push(kind);
        self.out.extend_from_slice(&digits[at..]);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Sends all commands gathered so far.
    pub(crate) fn send(&mut self) -> Outcome<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads the header of an array: its length.
    pub(crate) fn array(&mut self) -> Outcome<usize> {
        let length = self.line(b'*')?;
        Ok(usize::try_from(length)?)
    }

    /// Reads an integer reply.
    pub(crate) fn integer(&mut self) -> Outcome<i64> {
        self.line(b':')
    }

    /// Reads a simple reply, such as OK.
    pub(crate) fn simple(&mut self) -> Outcome<()> {
        let end = self.line_end()?;
        match self.input[self.start] {
            b'+' => self.start = end + 2,
            _ => return Err(self.unexpected(end)),
        }
        Ok(())
    }

    /// Reads a string; `None` when Redis has none.
    #[inline]
    pub(crate) fn bulk(&mut self) -> Outcome<Option<&[u8]>> {
        let Ok(length) = usize::try_from(self.line(b'$')?) else {
            return Ok(None);
        };
        while self.end - self.start < length + 2 {
            self.receive()?;
        }
        let from = self.start;
        self.start += length + 2;
        Ok(Some(&self.input[from..from + length]))
    }

    /// Reads a string if it is the one that [`encoded`] made `expected` of, and otherwise leaves it where it is.
    #[inline]
    pub(crate) fn skip_if(&mut self, expected: &[u8]) -> Outcome<bool> {
        loop {
            let input = &self.input[self.start..self.end];
            if input.len() >= expected.len() {
                let same = input.starts_with(expected);
                if same {
                    self.start += expected.len();
                }
                return Ok(same);
            }
            if !expected.starts_with(input) {
                return Ok(false);
            }
            self.receive()?;
        }
    }

    #[inline]
    fn line(&mut self, kind: u8) -> Outcome<i64> {
        let end = self.line_end()?;
        if self.input[self.start] != kind {
            return Err(self.unexpected(end));
        }
        let mut number = 0i64;
        let (sign, digits) = match &self.input[self.start + 1..end] {
            [b'-', digits @ ..] => (-1, digits),
            digits => (1, digits),
        };
        for digit in digits {
            number = number * 10 + i64::from(digit - b'0');
        }
        self.start = end + 2;
        Ok(sign * number)
    }

    /// Where the line at `start` ends; receives until it does.
    #[inline]
    fn line_end(&mut self) -> Outcome<usize> {
        loop {
            let line = &self.input[self.start..self.end];
            if let Some(length) = line.iter().position(|byte| *byte == b'\r').filter(|at| at + 1 < line.len()) {
                return Ok(self.start + length);
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Outcome<()> {
        if self.input.len() - self.end < READ_BYTES / 2 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.input.len() - self.end < READ_BYTES / 2 {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
        let read = self.stream.read(&mut self.input[self.end..])?;
        if read == 0 {
            return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        self.end += read;
        Ok(())
    }

    fn unexpected(&self, end: usize) -> Box<dyn std::error::Error> {
        format!("redis answered {}", String::from_utf8_lossy(&self.input[self.start..end])).into()
    }
}

/// A string as Redis sends it.
pub(crate) fn encoded(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}
