//! A small HTTP server that has files, as far as object stores are asked for them: whole and ranged reads, S3's listing of a bucket, writing and
//! deleting. It can break off in the middle of what it sends, and refuse.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

#[derive(Default)]
struct Shared {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Method, path with query, and range, if one was asked for.
    requests: Mutex<Vec<String>>,
    break_off: AtomicUsize,
    status: AtomicUsize,
}

/// Serves until the process ends.
pub(crate) struct FileServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FileServer {
    pub(crate) fn start() -> FileServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let of_server = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = of_server.clone();
                // A client that goes away is its own affair.
                thread::spawn(move || drop(answer(stream, &shared)));
            }
        });
        FileServer { address, shared }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn put(&self, path: &str, content: Vec<u8>) {
        self.shared.files.lock().unwrap().insert(path.to_owned(), content);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.shared.files.lock().unwrap().get(path).cloned()
    }

    /// Sends only half of the next `times` bodies that are asked for.
    pub(crate) fn break_off(&self, times: usize) {
        self.shared.break_off.store(times, Ordering::Relaxed);
    }

    /// Answers everything with this status; 0 = as it should.
    pub(crate) fn refuse(&self, status: usize) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }
}

/// Answers the one request that comes over a connection.
fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut range, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else { continue };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.trim_start_matches("bytes=").to_owned()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let asked = range.as_ref().map_or(String::new(), |range| format!(" {range}"));
    shared.requests.lock().unwrap().push(format!("{method} {target}{asked}"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = unescape(path.trim_start_matches('/'));
    let status = shared.status.load(Ordering::Relaxed);
    if status != 0 {
        return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let mut files = shared.files.lock().unwrap();
    let plain = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    match method {
        "PUT" => {
            files.insert(path, body);
            stream.write_all(plain("200 OK\r\nETag: \"new\"").as_bytes())
        }
        "DELETE" => {
            let status = if files.remove(&path).is_some() { "204 No Content" } else { "404 Not Found" };
            stream.write_all(plain(status).as_bytes())
        }
        "GET" if query.contains("list-type=2") => {
            let listing = listing(&files, &path, query);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length";
            write!(stream, "{head}: {}\r\n\r\n{listing}", listing.len())
        }
        "GET" | "HEAD" => {
            let Some(content) = files.get(&path).cloned() else {
                return stream.write_all(plain("404 Not Found").as_bytes());
            };
            drop(files);
            let whole = content.len();
            let (status, part, span) = match range.as_deref().and_then(|range| range.split_once('-')) {
                Some((start, end)) => {
                    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
                    let end = whole.min(end + 1);
                    let span = format!("Content-Range: bytes {start}-{}/{whole}\r\n", end - 1);
                    ("206 Partial Content", &content[start..end], span)
                }
                None => ("200 OK", &content[..], String::new()),
            };
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{span}ETag: \"{whole}\"\r\nAccept-Ranges: bytes\r\n\
                 Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nConnection: close\r\n\r\n",
                part.len()
            )?;
            let breaks = |left: usize| left.checked_sub(1);
            let update = |method: &str| {
                method == "GET" && shared.break_off.fetch_update(Ordering::Relaxed, Ordering::Relaxed, breaks).is_ok()
            };
            match method {
                "HEAD" => Ok(()),
                _ if update(method) => stream.write_all(&part[..part.len() / 2]),
                _ => stream.write_all(part),
            }
        }
        _ => stream.write_all(plain("405 Method Not Allowed").as_bytes()),
    }
}

/// What S3 says of the files of a bucket below a prefix.
fn listing(files: &BTreeMap<String, Vec<u8>>, bucket: &str, query: &str) -> String {
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
    let prefix = unescape(prefix);
    let of_bucket = files.iter().filter_map(|(path, content)| {
        Some((path.strip_prefix(bucket.trim_end_matches('/'))?.strip_prefix('/')?, content.len()))
    });
    let contents = of_bucket.filter(|(key, _)| key.starts_with(&prefix)).map(|(key, length)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
             <ETag>&quot;{length}&quot;</ETag><Size>{length}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    });
    let contents: String = contents.collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>bucket</Name><Prefix></Prefix>\
         <KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    )
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}
