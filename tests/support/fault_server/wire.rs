//! Requests and answers on the wire.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: Option<String>,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub fn form(&self) -> BTreeMap<String, String> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delivery: Delivery,
    delay: Duration,
    pub(super) carried_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Whole,
    Truncated,
    Stalled,
    Endless,
    Reset,
    Never,
}

impl Answer {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self {
            status,
            headers,
            body: body.into(),
            delivery: Delivery::Whole,
            delay: Duration::ZERO,
            carried_out: false,
        }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn empty(status: u16) -> Self {
        Self { headers: Vec::new(), ..Self::new(status, "", "") }
    }

    pub fn redirect(status: u16, location: &str) -> Self {
        Self::empty(status).header("location", location)
    }

    /// Reads the request and then resets the connection.
    pub fn reset() -> Self {
        Self { delivery: Delivery::Reset, ..Self::empty(200) }
    }

    /// Reads the request and says nothing until the client gives up.
    pub fn never() -> Self {
        Self { delivery: Delivery::Never, ..Self::empty(200) }
    }

    /// Sends half of the body and closes the connection.
    pub fn truncated(self) -> Self {
        Self { delivery: Delivery::Truncated, ..self }
    }

    /// Sends half of the body and says nothing more until the client gives up.
    pub fn stalled(self) -> Self {
        Self { delivery: Delivery::Stalled, ..self }
    }

    /// Sends the body over and over until the client gives up.
    pub fn endless(self) -> Self {
        Self { delivery: Delivery::Endless, ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The path of this server that the answer redirects to.
    pub(super) fn redirected_to(&self) -> Option<&str> {
        let (_, location) = self.headers.iter().find(|(name, _)| name == "location")?;
        let path = location.split(['?', '#']).next()?;
        ((300..400).contains(&self.status) && path.starts_with('/') && !path.starts_with("//")).then_some(path)
    }

    /// Answers only after this time.
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// The server's [`Registrar`] carries the request out, and its own answer is lost.
    pub fn carried_out(self) -> Self {
        Self { carried_out: true, ..self }
    }
}

pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin {
    /// Makes the end of the connection a reset.
    fn reset(&self);
}

impl Connection for TcpStream {
    fn reset(&self) {
        let _ = self.set_zero_linger();
    }
}

impl Connection for TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

/// Whether the connection can be used again.
pub(super) async fn deliver(
    stream: &mut impl Connection,
    answer: Answer,
    body_bytes_sent: impl Fn(usize),
) -> io::Result<bool> {
    if !answer.delay.is_zero() {
        let mut byte = [0];
        // No client pipelines, so what can be read is the end: the client gave up.
        tokio::select! {
            () = tokio::time::sleep(answer.delay) => {}
            _ = stream.read(&mut byte) => return Ok(false),
        }
    }
    match answer.delivery {
        Delivery::Reset => {
            stream.reset();
            return Ok(false);
        }
        Delivery::Never => {
            let _ = stream.read(&mut [0]).await?;
            return Ok(false);
        }
        Delivery::Whole | Delivery::Truncated | Delivery::Stalled | Delivery::Endless => {}
    }
    let mut head = format!("HTTP/1.1 {} -\r\n", answer.status);
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    match answer.delivery {
        Delivery::Endless => head += "transfer-encoding: chunked\r\n\r\n",
        _ if answer.status == 204 => head += "\r\n",
        _ => {
            let _ = write!(head, "content-length: {}\r\n\r\n", answer.body.len());
        }
    }
    stream.write_all(head.as_bytes()).await?;
    match answer.delivery {
        Delivery::Endless => loop {
            stream.write_all(format!("{:x}\r\n", answer.body.len()).as_bytes()).await?;
            stream.write_all(&answer.body).await?;
            stream.write_all(b"\r\n").await?;
            body_bytes_sent(answer.body.len());
        },
        Delivery::Stalled => {
            stream.write_all(&answer.body[..answer.body.len() / 2]).await?;
            stream.flush().await?;
            let _ = stream.read(&mut [0]).await?;
            Ok(false)
        }
        Delivery::Truncated => {
            stream.write_all(&answer.body[..answer.body.len() / 2]).await?;
            stream.shutdown().await?;
            Ok(false)
        }
        _ => {
            stream.write_all(&answer.body).await?;
            stream.flush().await?;
            Ok(true)
        }
    }
}

/// `None`: the client closed the connection. An error of the kind `InvalidData`: it does not speak HTTP/1.1 as it should.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Request>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && head.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8(head).map_err(|error| invalid(error.to_string()))?;
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default();
    let [method, target, "HTTP/1.1"] = first.split(' ').collect::<Vec<_>>()[..] else {
        return Err(invalid(format!("request line {first:?}")));
    };
    let mut headers = BTreeMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| invalid(format!("header {line:?}")))?;
        if headers.insert(name.to_ascii_lowercase(), value.to_owned()).is_some() {
            return Err(invalid(format!("the header {name} twice")));
        }
    }
    if !headers.contains_key("host") || headers.contains_key("transfer-encoding") {
        return Err(invalid("no host, or a transfer-encoding".to_owned()));
    }
    let length = headers.get("content-length").map_or(Ok(0), |length| length.parse());
    let mut body = vec![0; length.map_err(|_| invalid("content-length".to_owned()))?];
    stream.read_exact(&mut body).await?;
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), query, headers, body }))
}
