exec ruby "$(dirname "$0")/submit.rb"
