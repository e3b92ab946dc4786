exec Rscript "$(dirname "$0")/submit.R"
