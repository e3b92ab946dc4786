exec php "$(dirname "$0")/submit.php"
