//! What stands below the help of each command.

pub(super) const PROGRAM: &str = "\
Example:
  imageset-mirror plan -f imageset.yaml --to registry.example.com:5000/ocp";

pub(super) const CONTROLLER: &str = "\
Example:
  imageset-mirror controller --watch-namespace team-a --watch-namespace team-b";

pub(super) const MIRROR: &str = "\
Examples:
  imageset-mirror mirror -f imageset.yaml --to registry.example.com:5000/ocp --out resources/
  imageset-mirror mirror -f imageset.yaml --to registry.example.com:5000/ocp --only additional

Exit code: 0 everything is in the target, 1 something failed, 2 bad input";

pub(super) const PLAN: &str = "\
Examples:
  imageset-mirror plan -f imageset.yaml --to registry.example.com:5000/ocp --diff
  imageset-mirror plan -f imageset.yaml --to registry.example.com/ocp --resources | oc diff -f -
  imageset-mirror plan -f imageset.yaml --to registry.example.com:5000/ocp -o mapping";

pub(super) const CATALOG: &str = "\
Example:
  imageset-mirror catalog filter -f imageset.yaml configs/";

pub(super) const FILTER: &str = "\
Example:
  imageset-mirror catalog filter -f imageset.yaml --catalog quay.io/index:v4 configs/";

pub(super) const CONVERT: &str = "\
Example:
  imageset-mirror convert -f isc.yaml --to registry.example.com:5000/ocp | kubectl apply -f -";

pub(super) const STATUS: &str = "\
Examples:
  imageset-mirror status -n imageset-mirror
  kubectl imagesetmirror status --watch releases    # if linked as `kubectl-imagesetmirror`";

pub(super) const CRD: &str = "\
Example:
  imageset-mirror crd | kubectl apply --server-side -f -";

pub(super) const CHECK: &str = "\
Example:
  imageset-mirror check --namespace imageset-mirror --ready-url http://imageset-mirror:8081/readyz";

pub(super) const CONTAINERD_HOSTS: &str = "\
Example:
  imageset-mirror containerd-hosts --object releases --every 1m";

pub(super) const COMPLETIONS: &str = "\
Examples:
  source <(imageset-mirror completions bash)
  imageset-mirror completions fish > ~/.config/fish/completions/imageset-mirror.fish";

pub(super) const MAN: &str = "\
Examples:
  imageset-mirror man mirror | man -l -
  imageset-mirror man --out /usr/local/share/man/man1";
