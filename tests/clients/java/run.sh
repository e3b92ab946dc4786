exec java "$(dirname "$0")/Submit.java"
