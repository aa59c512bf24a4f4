//! Which addresses redirects, upload locations and token realms may lead to.
//!
//! Hosts that the user named are contacted wherever they are. A host that only a registry named must not lead us to
//! ourselves, to our node's link or to the metadata service of a cloud, unless the registry is at such a place itself.
//! Names are checked when they are resolved, so a name that points there is refused too.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Places that a stranger may not send us to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reach {
    pub(super) loopback: bool,
    pub(super) link_local: bool,
}

impl Reach {
    /// True if this address may be contacted.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        match kind(address) {
            Kind::Elsewhere => true,
            Kind::Loopback => self.loopback,
            Kind::LinkLocal => self.link_local,
            Kind::Nowhere => false,
        }
    }

    /// What a registry at these addresses may send us to.
    pub(super) fn of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        addresses.into_iter().fold(Self::default(), |reach, address| Self {
            loopback: reach.loopback || kind(address) == Kind::Loopback,
            link_local: reach.link_local || kind(address) == Kind::LinkLocal,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Elsewhere,
    Loopback,
    LinkLocal,
    Nowhere,
}

/// The metadata services of clouds that are not at link-local addresses.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Kind::Loopback,
        IpAddr::V4(v4) if v4.is_link_local() || METADATA_V4.contains(&v4) => Kind::LinkLocal,
        IpAddr::V4(v4) if v4.octets().first() == Some(&0) || v4.is_multicast() || v4.is_broadcast() => Kind::Nowhere,
        IpAddr::V4(_) => Kind::Elsewhere,
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => kind(IpAddr::V4(v4)),
            None if v6.is_loopback() => Kind::Loopback,
            None if v6.is_unicast_link_local() || v6 == METADATA_V6 => Kind::LinkLocal,
            None if v6.is_unspecified() || v6.is_multicast() => Kind::Nowhere,
            None => Kind::Elsewhere,
        },
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, or behind the well-known prefix of NAT64.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    if let Some(v4) = v6.to_ipv4_mapped() {
        return Some(v4);
    }
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = v6.segments() else { return None };
    Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

/// The address a host is written as, if it is not a name.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// A name that a stranger gave us led to an address that is out of reach.
#[derive(Debug)]
pub(super) struct OutOfReach;

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name has only addresses that are not allowed")
    }
}

impl std::error::Error for OutOfReach {}

/// Where the environment names proxies.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Resolves names, leaving out addresses that are out of reach.
#[derive(Debug)]
pub(super) struct Guard {
    reach: Reach,
    /// Proxies are named by the administrator and may be anywhere.
    proxies: Vec<String>,
}

impl Guard {
    pub(super) fn new(reach: Reach) -> Self {
        let host = |text: String| {
            let text = if text.contains("://") { text } else { format!("http://{text}") };
            url::Url::parse(&text).ok()?.host_str().map(str::to_owned)
        };
        let proxies = PROXIES.iter().filter_map(|name| host(std::env::var(name).ok()?)).collect();
        Self { reach, proxies }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        let proxy = self.proxies.iter().any(|proxy| proxy == name.as_str());
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.iter().copied().filter(|address| proxy || reach.allows(address.ip())).collect();
            if allowed.is_empty() && !found.is_empty() {
                return Err(OutOfReach.into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_lead_neither_to_us_nor_to_metadata_services() {
        let outside = Reach::default();
        for text in [
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "224.0.0.1",
        ] {
            assert!(!outside.allows(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "192.168.1.1", "172.16.0.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(outside.allows(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_registry_on_loopback_may_lead_to_loopback_and_nowhere_else() {
        let reach = Reach::of(["127.0.0.1".parse().unwrap()]);
        assert!(reach.allows("::1".parse().unwrap()));
        assert!(!reach.allows("169.254.169.254".parse().unwrap()));
    }

    #[test]
    fn a_host_in_brackets_is_an_address() {
        assert_eq!(literal("[::1]"), Some("::1".parse().unwrap()));
        assert_eq!(literal("example.com"), None);
    }
}
