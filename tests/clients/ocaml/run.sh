exec ocaml -I +unix unix.cma "$(dirname "$0")/submit.ml"
