//! Connects to the first of several addresses that answers, as RFC 8305 describes ("happy eyeballs").
//!
//! It does not know which addresses a plugin may reach, nor how long a connection may take.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long an address is tried before the next one is tried beside it: the recommendation of RFC 8305.
const HEAD_START: Duration = Duration::from_millis(250);

/// An address, and why there is no connection to it.
pub(crate) type FailedAddress = (SocketAddr, io::Error);

/// A connection to one of the addresses. Errors with every address when none accepts the connection.
pub(crate) async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Vec<FailedAddress>> {
    let mut waiting = families_in_turn(addresses).into_iter();
    let (mut connecting, mut failures) = (FuturesUnordered::new(), Vec::new());
    loop {
        match waiting.next() {
            Some(address) => {
                connecting.push(async move { TcpStream::connect(address).await.map_err(|err| (address, err)) });
            }
            None if connecting.is_empty() => return Err(failures),
            None => {}
        }
        tokio::select! {
            Some(result) = connecting.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(failure) => failures.push(failure),
            },
            () = sleep(HEAD_START), if waiting.len() > 0 => {}
        }
    }
}

/// The addresses in their order, but of the two families in turn: one of the families may be unreachable as a whole.
fn families_in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_first_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4() == is_first_v4);
    let longest = first.len().max(second.len());
    (0..longest).flat_map(|index| [first.get(index).copied(), second.get(index).copied()]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// A listener whose queue is full: a connection to it gets no answer. The streams keep the queue full.
    async fn silent() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let (address, mut held) = (listener.local_addr().unwrap(), Vec::new());
        while let Ok(Ok(stream)) = tokio::time::timeout(HEAD_START, TcpStream::connect(address)).await {
            held.push(stream);
        }
        (listener, held)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_or_refuses_does_not_hold_up_the_next_one() {
        let (silent, _full) = silent().await;
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [silent.local_addr().unwrap(), refusing, good.local_addr().unwrap()];
        // Much longer than the head starts. The kernel alone would try the first address for two minutes.
        let connecting = tokio::time::timeout(HEAD_START * 100, connect(&addresses));
        let stream = connecting.await.expect("the next address is tried meanwhile").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good.local_addr().unwrap());
    }

    #[tokio::test]
    async fn each_address_that_was_tried_is_in_the_error_with_its_own() {
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let failures = connect(&[refusing]).await.unwrap_err();
        assert_eq!((failures[0].0, failures[0].1.kind()), (refusing, io::ErrorKind::ConnectionRefused));
        assert_eq!((failures.len(), connect(&[]).await.unwrap_err().len()), (1, 0));
    }

    #[test]
    fn the_families_take_turns_and_the_first_address_begins() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let [one, two, three] = ["[::1]:1", "[::2]:1", "127.0.0.1:1"].map(address);
        assert_eq!(families_in_turn(&[one, two, three]), [one, three, two]);
        assert_eq!(families_in_turn(&[three, one, two]), [three, one, two]);
    }
}
